name = 'speed'
set key outside right top
set grid lc rgb '#dddddd'
set border 3
set tics nomirror
set logscale xy
set xlabel 'FLOPs of a training step'
set ylabel 'time of a step (ms)'
$block0 << EOD
2.35605e+09 10.1359
4.07254e+09 14.5136
5.82992e+09 18.697
7.883e+09 20.093
1.35557e+10 30.295
2.0751e+10 43.4637
4.07254e+09 14.5136
7.883e+09 20.093
1.35557e+10 30.295
2.0751e+10 43.4637
2.84496e+10 54.7036
7.883e+09 20.093
1.35557e+10 30.295
2.0751e+10 43.4637
2.0751e+10 43.4637
2.0751e+10 43.4637
2.84496e+10 54.7036
6.24399e+10 2249.47
EOD
$block1 << EOD
2.21774e+09 10.3729
4.08158e+09 16.1716
7.05272e+09 23.4602
1.00742e+10 30.4771
1.3599e+10 32.6621
2.33665e+10 50.5253
4.08158e+09 16.1716
7.05272e+09 23.4602
1.00742e+10 30.4771
2.33665e+10 50.5253
3.57512e+10 70.342
7.05272e+09 23.4602
1.3599e+10 32.6621
1.3599e+10 32.6621
1.3599e+10 32.6621
2.33665e+10 50.5253
3.57512e+10 70.342
4.89412e+10 2006.79
EOD
$block2 << EOD
2.29589e+09 9.6161
3.96716e+09 14.0035
5.66673e+09 18.1062
1.31436e+10 29.3499
2.011e+10 41.0456
3.96716e+09 14.0035
7.64943e+09 19.3975
1.31436e+10 29.3499
2.011e+10 41.0456
2.75294e+10 52.7983
EOD
set terminal svg size 900,520 font 'sans,13' background '#ffffff'
set output name.'.svg'
plot $block0 with points pt 7 ps 0.7 lc 1 title 'mod', \
  $block1 with points pt 7 ps 0.7 lc 2 title 'plain', \
  $block2 with points pt 7 ps 0.7 lc 3 title 'stochastic'
set terminal pngcairo size 1350,780 font 'sans,18'
set output name.'.png'
replot
