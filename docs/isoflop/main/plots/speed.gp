name = 'speed'
set key outside right top
set grid lc rgb '#dddddd'
set border 3
set tics nomirror
set logscale xy
set xlabel 'FLOPs of a training step'
set ylabel 'time of a step (ms)'
$block0 << EOD
2.35605e+09 10.8403
4.07254e+09 15.3027
5.82992e+09 20.2944
7.883e+09 21.6693
1.35557e+10 33.3197
2.0751e+10 45.5584
4.07254e+09 15.3027
7.883e+09 21.6693
1.35557e+10 33.3197
2.0751e+10 45.5584
2.84496e+10 59.9012
7.883e+09 21.6693
1.35557e+10 33.3197
2.0751e+10 45.5584
2.0751e+10 45.5584
2.0751e+10 45.5584
2.84496e+10 59.9012
6.24399e+10 119.036
EOD
$block1 << EOD
2.21774e+09 11.4257
4.08158e+09 17.3365
7.05272e+09 24.78
1.00742e+10 32.3133
1.3599e+10 36.3617
2.33665e+10 54.2583
4.08158e+09 17.3365
7.05272e+09 24.78
1.00742e+10 32.3133
2.33665e+10 54.2583
3.57512e+10 77.4234
7.05272e+09 24.78
1.3599e+10 36.3617
1.3599e+10 36.3617
1.3599e+10 36.3617
2.33665e+10 54.2583
3.57512e+10 77.4234
4.89412e+10 97.6971
EOD
$block2 << EOD
2.29589e+09 10.7603
3.96716e+09 15.4858
5.66673e+09 19.6116
1.31436e+10 32.464
2.011e+10 45.0452
3.96716e+09 15.4858
7.64943e+09 21.2878
1.31436e+10 32.464
2.011e+10 45.0452
2.75294e+10 58.0913
1.31436e+10 32.464
2.011e+10 45.0452
2.75294e+10 58.0913
EOD
set terminal svg size 900,520 font 'sans,13' background '#ffffff'
set output name.'.svg'
plot $block0 with points lc rgb '#0072b2' pt 7 ps 0.7 title 'mod', \
  $block1 with points lc rgb '#d55e00' pt 7 ps 0.7 title 'plain', \
  $block2 with points lc rgb '#009e73' pt 7 ps 0.7 title 'stochastic'
set terminal pngcairo size 1350,780 font 'sans,18'
set output name.'.png'
replot
