name = 'speed'
set key outside right top
set grid lc rgb '#dddddd'
set border 3
set tics nomirror
set logscale xy
set xlabel 'FLOPs of a training step'
set ylabel 'time of a step (ms)'
$block0 << EOD
4.67652e+09 32.7542
6.58489e+09 42.4725
8.78897e+09 46.726
1.47637e+10 72.3784
2.22609e+10 93.5125
EOD
$block1 << EOD
1.60731e+10 73.3307
EOD
$block2 << EOD
2.22609e+10 105.277
EOD
$block3 << EOD
4.53457e+09 72.6026
7.6567e+09 53.7726
1.08292e+10 70.1236
2.45744e+10 237.242
EOD
$block4 << EOD
2.45744e+10 118.87
EOD
set terminal svg size 900,520 font 'sans,13' background '#ffffff'
set output name.'.svg'
plot $block0 with points lc rgb '#0072b2' pt 7 ps 0.7 title 'mod', \
  $block1 with points lc rgb '#d55e00' pt 7 ps 0.7 title 'mod-c0.25', \
  $block2 with points lc rgb '#009e73' pt 7 ps 0.7 title 'mod-h16', \
  $block3 with points lc rgb '#cc79a7' pt 7 ps 0.7 title 'plain', \
  $block4 with points lc rgb '#e69f00' pt 7 ps 0.7 title 'plain-h16'
set terminal pngcairo size 1350,780 font 'sans,18'
set output name.'.png'
replot
