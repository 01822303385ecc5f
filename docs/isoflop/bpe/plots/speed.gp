name = 'speed'
set key outside right top
set grid lc rgb '#dddddd'
set border 3
set tics nomirror
set logscale xy
set xlabel 'FLOPs of a training step'
set ylabel 'time of a step (ms)'
$block0 << EOD
2.80904e+09 13.0983
4.67652e+09 17.0006
4.67652e+09 17.0006
6.58489e+09 22.8086
6.58489e+09 22.8086
8.78897e+09 24.2639
8.78897e+09 24.2639
1.47637e+10 36.8927
4.67652e+09 17.0006
6.58489e+09 22.8086
EOD
$block1 << EOD
3.00751e+09 13.4188
5.04182e+09 18.4237
7.12016e+09 23.9517
9.52566e+09 25.9526
1.60731e+10 39.8305
EOD
$block2 << EOD
2.51973e+09 13.1278
4.53457e+09 19.1062
4.53457e+09 19.1062
7.6567e+09 27.7682
7.6567e+09 27.7682
1.08292e+10 35.0805
1.08292e+10 35.0805
1.4505e+10 37.6394
7.6567e+09 27.7682
1.08292e+10 35.0805
EOD
$block3 << EOD
2.74887e+09 12.0764
4.57114e+09 17.3497
6.42171e+09 21.7012
1.43516e+10 34.4125
2.162e+10 49.602
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
