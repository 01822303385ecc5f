name = 'speed'
set key outside right top
set grid lc rgb '#dddddd'
set border 3
set tics nomirror
set logscale xy
set xlabel 'FLOPs of a training step'
set ylabel 'time of a step (ms)'
$block0 << EOD
2.80904e+09 15.2085
4.67652e+09 20.2461
4.67652e+09 20.2461
6.58489e+09 27.5262
6.58489e+09 27.5262
8.78897e+09 27.1424
8.78897e+09 27.1424
1.47637e+10 39.5612
4.67652e+09 20.2461
6.58489e+09 27.5262
8.78897e+09 27.1424
1.47637e+10 39.5612
EOD
$block1 << EOD
3.00751e+09 16.4019
5.04182e+09 22.1783
7.12016e+09 29.8296
9.52566e+09 26.7936
1.60731e+10 38.8748
EOD
$block2 << EOD
2.51973e+09 13.9147
4.53457e+09 22.1461
4.53457e+09 22.1461
7.6567e+09 32.0493
7.6567e+09 32.0493
1.08292e+10 42.1881
1.08292e+10 42.1881
1.4505e+10 40.4226
7.6567e+09 32.0493
1.08292e+10 42.1881
1.4505e+10 40.4226
EOD
$block3 << EOD
2.74887e+09 14.9273
4.57114e+09 20.2376
6.42171e+09 23.0173
1.43516e+10 36.2126
2.162e+10 47.9893
EOD
set terminal svg size 900,520 font 'sans,13' background '#ffffff'
set output name.'.svg'
plot $block0 with points lc rgb '#0072b2' pt 7 ps 0.7 title 'mod', \
  $block1 with points lc rgb '#d55e00' pt 7 ps 0.7 title 'mod-c0.25', \
  $block2 with points lc rgb '#009e73' pt 7 ps 0.7 title 'plain', \
  $block3 with points lc rgb '#cc79a7' pt 7 ps 0.7 title 'stochastic'
set terminal pngcairo size 1350,780 font 'sans,18'
set output name.'.png'
replot
