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
0.400537 2.642816
0.67282 2.556690
1.01449 2.564185
1.3791 2.803667
EOD
$block1 << EOD
0.493514 2.715017
0.661029 2.569669
1.11992 2.564451
1.69809 2.619140
EOD
set terminal svg size 900,520 font 'sans,13' background '#ffffff'
set output name.'.svg'
plot $block0 with linespoints lc rgb '#0072b2' dt 1 pt 7 ps 0.7 title 'mod', \
  $block1 with linespoints lc rgb '#d55e00' dt 1 pt 7 ps 0.7 title 'plain'
set terminal pngcairo size 1350,780 font 'sans,18'
set output name.'.png'
replot
