name = 'speed'
set key outside right top
set grid lc rgb '#dddddd'
set border 3
set tics nomirror
set logscale xy
set xlabel 'FLOPs of a training step'
set ylabel 'time of a step (ms)'
$block0 << EOD
2.29825e+09 10.7605
3.9703e+09 15.0546
5.67067e+09 19.5195
EOD
$block1 << EOD
2.35605e+09 10.9588
2.35605e+09 10.9588
4.07254e+09 15.2838
4.07254e+09 15.2838
5.82992e+09 20.8119
5.82992e+09 20.8119
EOD
$block2 << EOD
2.29825e+09 10.9065
3.9703e+09 15.1298
5.67067e+09 20.0973
EOD
$block3 << EOD
2.25829e+09 10.6303
3.88871e+09 15.0137
5.55835e+09 19.3347
EOD
$block4 << EOD
2.55453e+09 11.8502
4.43784e+09 16.5098
6.36518e+09 22.3249
EOD
$block5 << EOD
3.0081e+09 13.5816
5.24393e+09 19.2181
7.53009e+09 25.1895
EOD
$block6 << EOD
2.24526e+09 11.8748
4.14174e+09 17.9542
7.1581e+09 25.7074
EOD
$block7 << EOD
1.92467e+09 9.31886
3.32749e+09 12.8588
6.454e+09 18.4559
EOD
$block8 << EOD
2.16701e+09 7.57529
3.74499e+09 10.7985
5.75078e+09 15.1724
EOD
$block9 << EOD
2.35605e+09 11.0767
4.07254e+09 15.405
5.82992e+09 19.9898
EOD
$block10 << EOD
2.35605e+09 11.0217
4.07254e+09 15.332
5.82992e+09 20.0762
EOD
$block11 << EOD
2.35605e+09 11.0793
4.07254e+09 15.4366
5.82992e+09 20.2922
EOD
$block12 << EOD
2.21774e+09 11.2817
2.21774e+09 11.2817
4.08158e+09 17.1994
4.08158e+09 17.1994
7.05272e+09 25.674
7.05272e+09 25.674
EOD
$block13 << EOD
3.09894e+09 13.1162
3.09894e+09 13.1162
5.33987e+09 19.5805
5.33987e+09 19.5805
7.61856e+09 24.9032
7.61856e+09 24.9032
EOD
$block14 << EOD
2.29589e+09 10.6111
2.29589e+09 10.6111
3.96716e+09 15.0037
3.96716e+09 15.0037
5.66673e+09 19.6037
5.66673e+09 19.6037
EOD
set terminal svg size 900,520 font 'sans,13' background '#ffffff'
set output name.'.svg'
plot $block0 with points lc rgb '#0072b2' pt 7 ps 0.7 title 'choice', \
  $block1 with points lc rgb '#d55e00' pt 7 ps 0.7 title 'mod', \
  $block2 with points lc rgb '#009e73' pt 7 ps 0.7 title 'mod-aux', \
  $block3 with points lc rgb '#cc79a7' pt 7 ps 0.7 title 'mod-c0.06', \
  $block4 with points lc rgb '#e69f00' pt 7 ps 0.7 title 'mod-c0.25', \
  $block5 with points lc rgb '#56b4e9' pt 7 ps 0.7 title 'mod-c0.5', \
  $block6 with points lc rgb '#8c564b' pt 7 ps 0.7 title 'mod-c1', \
  $block7 with points lc rgb '#000000' pt 7 ps 0.7 title 'mod-d3', \
  $block8 with points lc rgb '#0072b2' pt 6 ps 0.7 title 'mod-e1', \
  $block9 with points lc rgb '#d55e00' pt 6 ps 0.7 title 'mod-m2', \
  $block10 with points lc rgb '#009e73' pt 6 ps 0.7 title 'mod-one', \
  $block11 with points lc rgb '#cc79a7' pt 6 ps 0.7 title 'mod-sigmoid', \
  $block12 with points lc rgb '#e69f00' pt 6 ps 0.7 title 'plain', \
  $block13 with points lc rgb '#56b4e9' pt 6 ps 0.7 title 'plain-b6', \
  $block14 with points lc rgb '#8c564b' pt 6 ps 0.7 title 'stochastic'
set terminal pngcairo size 1350,780 font 'sans,18'
set output name.'.png'
replot
