name = 'speed'
set key outside right top
set grid lc rgb '#dddddd'
set border 3
set tics nomirror
set logscale xy
set xlabel 'FLOPs of a training step'
set ylabel 'time of a step (ms)'
$block0 << EOD
2.35605e+09 10.9819
4.07254e+09 15.5494
5.82992e+09 20.3052
7.883e+09 22.4951
1.35557e+10 34.7655
2.0751e+10 48.8057
4.07254e+09 15.5494
5.82992e+09 20.3052
7.883e+09 22.4951
1.35557e+10 34.7655
2.0751e+10 48.8057
2.84496e+10 59.5354
7.883e+09 22.4951
1.35557e+10 34.7655
2.0751e+10 48.8057
2.0751e+10 48.8057
2.0751e+10 48.8057
2.84496e+10 59.5354
6.24399e+10 119.036
EOD
$block1 << EOD
1.48651e+10 37.2616
8.61969e+09 23.6103
1.48651e+10 37.2616
1.48651e+10 37.2616
1.48651e+10 37.2616
2.27967e+10 52.4643
3.12819e+10 65.5741
EOD
$block2 << EOD
EOD
$block3 << EOD
EOD
$block4 << EOD
EOD
$block5 << EOD
EOD
$block6 << EOD
2.21774e+09 12.3145
4.08158e+09 17.7221
7.05272e+09 25.2849
1.00742e+10 33.3442
1.3599e+10 37.263
2.33665e+10 57.1721
4.08158e+09 17.7221
7.05272e+09 25.2849
1.00742e+10 33.3442
1.3599e+10 37.263
2.33665e+10 57.1721
3.57512e+10 77.0077
7.05272e+09 25.2849
1.3599e+10 37.263
1.3599e+10 37.263
1.3599e+10 37.263
2.33665e+10 57.1721
3.57512e+10 77.0077
4.89412e+10 102.158
EOD
$block7 << EOD
EOD
$block8 << EOD
EOD
$block9 << EOD
EOD
$block10 << EOD
2.29589e+09 10.8141
3.96716e+09 15.1741
5.66673e+09 19.592
1.31436e+10 31.7253
2.011e+10 44.5306
3.96716e+09 15.1741
7.64943e+09 21.1882
1.31436e+10 31.7253
2.011e+10 44.5306
2.75294e+10 62.63
1.31436e+10 31.7253
2.011e+10 44.5306
2.75294e+10 62.63
EOD
$block11 << EOD
EOD
set terminal svg size 900,520 font 'sans,13' background '#ffffff'
set output name.'.svg'
plot $block0 with points lc rgb '#0072b2' pt 7 ps 0.7 title 'mod', \
  $block1 with points lc rgb '#d55e00' pt 7 ps 0.7 title 'mod-c0.25', \
  $block2 with points lc rgb '#009e73' pt 7 ps 0.7 title 'mod-c0.25-h16', \
  $block3 with points lc rgb '#cc79a7' pt 7 ps 0.7 title 'mod-c0.5', \
  $block4 with points lc rgb '#e69f00' pt 7 ps 0.7 title 'mod-h16', \
  $block5 with points lc rgb '#56b4e9' pt 7 ps 0.7 title 'mod-h8', \
  $block6 with points lc rgb '#8c564b' pt 7 ps 0.7 title 'plain', \
  $block7 with points lc rgb '#000000' pt 7 ps 0.7 title 'plain-b4-h16', \
  $block8 with points lc rgb '#0072b2' pt 6 ps 0.7 title 'plain-h16', \
  $block9 with points lc rgb '#d55e00' pt 6 ps 0.7 title 'plain-h8', \
  $block10 with points lc rgb '#009e73' pt 6 ps 0.7 title 'stochastic', \
  $block11 with points lc rgb '#cc79a7' pt 6 ps 0.7 title 'stochastic-h16'
set terminal pngcairo size 1350,780 font 'sans,18'
set output name.'.png'
replot
