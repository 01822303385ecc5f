name = 'speed'
set key outside right top
set grid lc rgb '#dddddd'
set border 3
set tics nomirror
set logscale xy
set xlabel 'FLOPs of a training step'
set ylabel 'time of a step (ms)'
$block0 << EOD
2.80904e+09 12.794
4.67652e+09 17.6445
4.67652e+09 17.6445
6.58489e+09 22.772
6.58489e+09 22.772
8.78897e+09 24.214
8.78897e+09 24.214
1.47637e+10 35.7102
4.67652e+09 17.6445
6.58489e+09 22.772
8.78897e+09 24.214
1.47637e+10 35.7102
EOD
$block1 << EOD
3.91157e+09 18.4696
6.61212e+09 24.9971
9.37402e+09 32.7329
1.25795e+10 35.3573
2.13402e+10 53.3801
EOD
$block2 << EOD
1.21632e+10 42.5199
EOD
$block3 << EOD
3.00751e+09 13.7693
5.04182e+09 18.7884
7.12016e+09 24.1598
9.52566e+09 25.8743
1.60731e+10 39.46
EOD
$block4 << EOD
2.51973e+09 12.8766
4.53457e+09 19.1805
4.53457e+09 19.1805
7.6567e+09 27.4342
7.6567e+09 27.4342
1.08292e+10 35.6543
1.08292e+10 35.6543
1.4505e+10 39.0223
7.6567e+09 27.4342
1.08292e+10 35.6543
1.4505e+10 39.0223
2.45744e+10 58.8596
EOD
$block5 << EOD
6.49986e+09 28.6359
1.10824e+10 39.8609
EOD
$block6 << EOD
2.74887e+09 12.3363
4.57114e+09 16.6887
6.42171e+09 21.7904
1.43516e+10 35.4905
2.162e+10 48.8036
EOD
set terminal svg size 900,520 font 'sans,13' background '#ffffff'
set output name.'.svg'
plot $block0 with points lc rgb '#0072b2' pt 7 ps 0.7 title 'mod', \
  $block1 with points lc rgb '#d55e00' pt 7 ps 0.7 title 'mod-b12', \
  $block2 with points lc rgb '#009e73' pt 7 ps 0.7 title 'mod-b16', \
  $block3 with points lc rgb '#cc79a7' pt 7 ps 0.7 title 'mod-c0.25', \
  $block4 with points lc rgb '#e69f00' pt 7 ps 0.7 title 'plain', \
  $block5 with points lc rgb '#56b4e9' pt 7 ps 0.7 title 'plain-b12', \
  $block6 with points lc rgb '#8c564b' pt 7 ps 0.7 title 'stochastic'
set terminal pngcairo size 1350,780 font 'sans,18'
set output name.'.png'
replot
