name = 'speed'
set key outside right top
set grid lc rgb '#dddddd'
set border 3
set tics nomirror
set logscale xy
set xlabel 'FLOPs of a training step'
set ylabel 'time of a step (ms)'
$block0 << EOD
4.67652e+09 17.4076
6.58489e+09 22.7308
8.78897e+09 24.1828
8.78897e+09 24.1828
1.47637e+10 36.2301
2.22609e+10 49.2796
3.02615e+10 64.593
EOD
$block1 << EOD
4.53457e+09 18.9574
7.6567e+09 26.9242
1.08292e+10 35.5288
1.08292e+10 35.5288
1.4505e+10 37.9493
2.45744e+10 56.8632
3.72611e+10 79.8432
EOD
set terminal svg size 900,520 font 'sans,13' background '#ffffff'
set output name.'.svg'
plot $block0 with points lc rgb '#0072b2' pt 7 ps 0.7 title 'mod', \
  $block1 with points lc rgb '#d55e00' pt 7 ps 0.7 title 'plain'
set terminal pngcairo size 1350,780 font 'sans,18'
set output name.'.png'
replot
