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
0.401868 1.211448
0.691058 1.193932
1.05787 1.186052
1.45033 1.190086
3.18313 1.217179
EOD
$block1 << EOD
0.439423 1.203753
0.75781 1.180976
1.16215 1.189686
1.59472 1.193282
EOD
$block2 << EOD
0.75781 1.176359
EOD
$block3 << EOD
0.691058 1.181750
1.05787 1.187498
EOD
$block4 << EOD
0.359541 1.208641
0.693263 1.183445
1.1912 1.189108
1.82256 1.192344
2.49498 1.197930
EOD
$block5 << EOD
0.693263 1.177429
1.1912 1.172330
EOD
$block6 << EOD
0.67005 1.201381
1.02519 1.196578
1.40342 1.191325
EOD
set terminal svg size 900,520 font 'sans,13' background '#ffffff'
set output name.'.svg'
plot $block0 with linespoints lc rgb '#0072b2' dt 1 pt 7 ps 0.7 title 'mod', \
  $block1 with linespoints lc rgb '#d55e00' dt 1 pt 7 ps 0.7 title 'mod-c0.25', \
  $block2 with linespoints lc rgb '#009e73' dt 1 pt 7 ps 0.7 title 'mod-c0.25-h16', \
  $block3 with linespoints lc rgb '#e69f00' dt 1 pt 7 ps 0.7 title 'mod-h16', \
  $block4 with linespoints lc rgb '#8c564b' dt 1 pt 7 ps 0.7 title 'plain', \
  $block5 with linespoints lc rgb '#0072b2' dt 2 pt 6 ps 0.7 title 'plain-h16', \
  $block6 with linespoints lc rgb '#009e73' dt 2 pt 6 ps 0.7 title 'stochastic'
set terminal pngcairo size 1350,780 font 'sans,18'
set output name.'.png'
replot
