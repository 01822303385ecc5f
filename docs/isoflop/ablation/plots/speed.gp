name = 'speed'
set key outside right top
set grid lc rgb '#dddddd'
set border 3
set tics nomirror
set logscale xy
set xlabel 'FLOPs of a training step'
set ylabel 'time of a step (ms)'
$block0 << EOD
2.29825e+09 106.739
3.9703e+09 75.7727
5.67067e+09 100.936
EOD
$block1 << EOD
2.35605e+09 78.0541
4.07254e+09 77.8099
5.82992e+09 231.319
EOD
$block2 << EOD
2.29825e+09 79.6722
3.9703e+09 69.5476
5.67067e+09 243.426
EOD
$block3 << EOD
2.25829e+09 45.9545
3.88871e+09 106.982
5.55835e+09 258.952
EOD
$block4 << EOD
2.55453e+09 45.2839
4.43784e+09 177.549
6.36518e+09 116.265
EOD
$block5 << EOD
3.0081e+09 49.846
5.24393e+09 222.508
7.53009e+09 108.589
EOD
$block6 << EOD
2.24526e+09 79.1254
4.14174e+09 69.2843
7.1581e+09 146.744
EOD
$block7 << EOD
1.92467e+09 33.3112
3.32749e+09 56.9223
6.454e+09 75.5706
EOD
$block8 << EOD
2.16701e+09 28.0082
3.74499e+09 59.878
5.75078e+09 94.9538
EOD
$block9 << EOD
2.35605e+09 40.1497
4.07254e+09 119.767
5.82992e+09 90.1679
EOD
$block10 << EOD
2.35605e+09 40.2465
4.07254e+09 74.4564
5.82992e+09 88.7115
EOD
$block11 << EOD
2.35605e+09 47.2674
4.07254e+09 83.7251
5.82992e+09 108.531
EOD
$block12 << EOD
2.21774e+09 101.545
4.08158e+09 81.2061
7.05272e+09 123.164
EOD
$block13 << EOD
2.29589e+09 53.9772
3.96716e+09 82.9603
5.66673e+09 95.6435
EOD
set terminal svg size 900,520 font 'sans,13' background '#ffffff'
set output name.'.svg'
plot $block0 with points pt 7 ps 0.7 lc 1 title 'choice', \
  $block1 with points pt 7 ps 0.7 lc 2 title 'mod', \
  $block2 with points pt 7 ps 0.7 lc 3 title 'mod-aux', \
  $block3 with points pt 7 ps 0.7 lc 4 title 'mod-c0.06', \
  $block4 with points pt 7 ps 0.7 lc 5 title 'mod-c0.25', \
  $block5 with points pt 7 ps 0.7 lc 6 title 'mod-c0.5', \
  $block6 with points pt 7 ps 0.7 lc 7 title 'mod-c1', \
  $block7 with points pt 7 ps 0.7 lc 8 title 'mod-d3', \
  $block8 with points pt 7 ps 0.7 lc 9 title 'mod-e1', \
  $block9 with points pt 7 ps 0.7 lc 10 title 'mod-m2', \
  $block10 with points pt 7 ps 0.7 lc 11 title 'mod-one', \
  $block11 with points pt 7 ps 0.7 lc 12 title 'mod-sigmoid', \
  $block12 with points pt 7 ps 0.7 lc 13 title 'plain', \
  $block13 with points pt 7 ps 0.7 lc 14 title 'stochastic'
set terminal pngcairo size 1350,780 font 'sans,18'
set output name.'.png'
replot
