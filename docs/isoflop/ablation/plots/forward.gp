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
0.600261 1.397450
1.03697 1.399278
1.48108 1.444417
EOD
$block1 << EOD
0.615358 1.407017
1.06367 1.403326
1.52267 1.430959
EOD
$block2 << EOD
0.600261 1.391636
1.03697 1.397376
1.48108 1.442017
EOD
$block3 << EOD
0.589824 1.407566
1.01566 1.404739
1.45174 1.434553
EOD
$block4 << EOD
0.667197 1.386784
1.15908 1.401304
1.66247 1.458086
EOD
$block5 << EOD
0.785662 1.396608
1.36962 1.423200
1.96672 1.494019
EOD
$block6 << EOD
0.586422 1.465880
1.08175 1.432379
1.86957 1.476449
EOD
$block7 << EOD
0.502689 1.394620
0.869081 1.396007
1.68567 1.454465
EOD
$block8 << EOD
0.615358 1.404226
1.06367 1.407504
1.52267 1.455423
EOD
$block9 << EOD
0.615358 1.409994
1.06367 1.423199
1.52267 1.451357
EOD
$block10 << EOD
0.615358 1.397772
1.06367 1.404658
1.52267 1.449840
EOD
$block11 << EOD
0.579233 1.451650
1.06604 1.429720
1.84204 1.470516
EOD
$block12 << EOD
0.809386 1.423680
1.39468 1.432463
1.98983 1.476437
EOD
$block13 << EOD
0.599645 1.425565
1.03615 1.421853
1.48005 1.446959
EOD
set terminal svg size 900,520 font 'sans,13' background '#ffffff'
set output name.'.svg'
plot $block0 with linespoints lc rgb '#0072b2' dt 1 pt 7 ps 0.7 title 'choice', \
  $block1 with linespoints lc rgb '#d55e00' dt 1 pt 7 ps 0.7 title 'mod', \
  $block2 with linespoints lc rgb '#009e73' dt 1 pt 7 ps 0.7 title 'mod-aux', \
  $block3 with linespoints lc rgb '#cc79a7' dt 1 pt 7 ps 0.7 title 'mod-c0.06', \
  $block4 with linespoints lc rgb '#e69f00' dt 1 pt 7 ps 0.7 title 'mod-c0.25', \
  $block5 with linespoints lc rgb '#56b4e9' dt 1 pt 7 ps 0.7 title 'mod-c0.5', \
  $block6 with linespoints lc rgb '#8c564b' dt 1 pt 7 ps 0.7 title 'mod-c1', \
  $block7 with linespoints lc rgb '#000000' dt 1 pt 7 ps 0.7 title 'mod-d3', \
  $block8 with linespoints lc rgb '#d55e00' dt 2 pt 6 ps 0.7 title 'mod-m2', \
  $block9 with linespoints lc rgb '#009e73' dt 2 pt 6 ps 0.7 title 'mod-one', \
  $block10 with linespoints lc rgb '#cc79a7' dt 2 pt 6 ps 0.7 title 'mod-sigmoid', \
  $block11 with linespoints lc rgb '#e69f00' dt 2 pt 6 ps 0.7 title 'plain', \
  $block12 with linespoints lc rgb '#56b4e9' dt 2 pt 6 ps 0.7 title 'plain-b6', \
  $block13 with linespoints lc rgb '#8c564b' dt 2 pt 6 ps 0.7 title 'stochastic'
set terminal pngcairo size 1350,780 font 'sans,18'
set output name.'.png'
replot
