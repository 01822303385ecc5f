name = 'speed'
set key outside right top
set grid lc rgb '#dddddd'
set border 3
set tics nomirror
set logscale xy
set xlabel 'FLOPs of a training step'
set ylabel 'time of a step (ms)'
$block0 << EOD
4.67652e+09 22.6293
6.58489e+09 29.0875
8.78897e+09 32.702
EOD
$block1 << EOD
4.53457e+09 23.1909
7.6567e+09 31.6294
1.08292e+10 43.0667
EOD
set terminal svg size 900,520 font 'sans,13' background '#ffffff'
set output name.'.svg'
plot $block0 with points lc rgb '#0072b2' pt 7 ps 0.7 title 'mod', \
  $block1 with points lc rgb '#d55e00' pt 7 ps 0.7 title 'plain'
set terminal pngcairo size 1350,780 font 'sans,18'
set output name.'.png'
replot
