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
0.632864 1.397450
1.09329 1.399278
1.56152 1.444417
EOD
$block1 << EOD
0.648781 1.407017
1.12145 1.403326
1.60537 1.430959
EOD
$block2 << EOD
0.632864 1.391636
1.09329 1.397376
1.56152 1.442017
EOD
$block3 << EOD
0.62186 1.407566
1.07083 1.404739
1.53059 1.434553
EOD
$block4 << EOD
0.703435 1.386784
1.22204 1.401304
1.75277 1.458086
EOD
$block5 << EOD
0.828335 1.396608
1.44401 1.423200
2.07354 1.494019
EOD
$block6 << EOD
0.618274 1.465880
1.1405 1.432379
1.97111 1.476449
EOD
$block7 << EOD
0.529992 1.394620
0.916285 1.396007
1.77723 1.454465
EOD
$block8 << EOD
0.648781 1.404226
1.12145 1.407504
1.60537 1.455423
EOD
$block9 << EOD
0.648781 1.409994
1.12145 1.423199
1.60537 1.451357
EOD
$block10 << EOD
0.648781 1.397772
1.12145 1.404658
1.60537 1.449840
EOD
$block11 << EOD
0.610694 1.451650
1.12394 1.429720
1.94209 1.470516
EOD
$block12 << EOD
0.853348 1.423680
1.47043 1.432463
2.09791 1.476437
EOD
$block13 << EOD
0.632215 1.425565
1.09243 1.421853
1.56044 1.446959
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
