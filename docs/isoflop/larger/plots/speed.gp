name = 'speed'
set key outside right top
set grid lc rgb '#dddddd'
set border 3
set tics nomirror
set logscale xy
set xlabel 'FLOPs of a training step'
set ylabel 'time of a step (ms)'
$block0 << EOD
5.82992e+09 36.0011
7.883e+09 34.7896
1.35557e+10 54.4951
2.0751e+10 80.8927
EOD
$block1 << EOD
4.43784e+09 30.1273
6.36518e+09 41.5728
1.48651e+10 66.6232
EOD
$block2 << EOD
7.53009e+09 97.474
1.02063e+10 98.9536
EOD
$block3 << EOD
7.05272e+09 44.5334
1.00742e+10 56.9715
2.33665e+10 95.8923
EOD
$block4 << EOD
7.64943e+09 35.0448
1.31436e+10 55.7661
2.011e+10 81.2346
EOD
set terminal svg size 900,520 font 'sans,13' background '#ffffff'
set output name.'.svg'
plot $block0 with points lc rgb '#0072b2' pt 7 ps 0.7 title 'mod', \
  $block1 with points lc rgb '#d55e00' pt 7 ps 0.7 title 'mod-c0.25', \
  $block2 with points lc rgb '#009e73' pt 7 ps 0.7 title 'mod-c0.5', \
  $block3 with points lc rgb '#cc79a7' pt 7 ps 0.7 title 'plain', \
  $block4 with points lc rgb '#e69f00' pt 7 ps 0.7 title 'stochastic'
set terminal pngcairo size 1350,780 font 'sans,18'
set output name.'.png'
replot
