name = 'forward'
set key outside right top
set grid lc rgb '#dddddd'
set border 3
set tics nomirror
set logscale x
set xrange [*:*] noextend
set xlabel 'forward FLOPs per token / those of the optimal plain model'
set ylabel 'held-out loss, causal (nats)'
$block0 << EOD
0.380159 1.211448
0.653727 1.193932
1.00072 1.186989
1.37198 1.190086
3.01118 1.217179
EOD
$block1 << EOD
0.340119 1.208641
0.655813 1.186629
1.12685 1.189108
1.72411 1.192344
2.3602 1.197930
EOD
set terminal svg size 900,520 font 'sans,13' background '#ffffff'
set output name.'.svg'
plot $block0 with linespoints pt 7 ps 0.7 lc 1 title 'mod', \
  $block1 with linespoints pt 7 ps 0.7 lc 2 title 'plain'
set terminal pngcairo size 1350,780 font 'sans,18'
set output name.'.png'
replot
