name = 'forward'
set key outside right top
set grid lc rgb '#dddddd'
set border 3
set tics nomirror
set logscale x 1.41421356
set format x '%.2f'
set xrange [*:*] noextend
set xlabel 'forward FLOPs per token / those of the optimal plain model'
set ylabel 'held-out loss, causal (nats)'
$block0 << EOD
0.728808 3.656937
1.02622 3.655964
1.36971 3.657301
EOD
$block1 << EOD
0.706686 3.649540
1.19325 3.629505
1.68766 3.677606
EOD
set terminal svg size 900,520 font 'sans,13' background '#ffffff'
set output name.'.svg'
plot $block0 with linespoints lc rgb '#0072b2' dt 1 pt 7 ps 0.7 title 'mod', \
  $block1 with linespoints lc rgb '#d55e00' dt 1 pt 7 ps 0.7 title 'plain'
set terminal pngcairo size 1350,780 font 'sans,18'
set output name.'.png'
replot
