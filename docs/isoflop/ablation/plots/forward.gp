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
0.614564 1.397450
1.06168 1.399278
1.51637 1.444417
EOD
$block1 << EOD
0.630021 1.392232
1.08902 1.404284
1.55895 1.432131
EOD
$block2 << EOD
0.614564 1.391636
1.06168 1.397376
1.51637 1.442017
EOD
$block3 << EOD
0.603878 1.407566
1.03986 1.404739
1.48633 1.434553
EOD
$block4 << EOD
0.683094 1.386784
1.1867 1.401304
1.70208 1.458086
EOD
$block5 << EOD
0.804382 1.396608
1.40225 1.423200
2.01358 1.494019
EOD
$block6 << EOD
0.600395 1.465880
1.10752 1.432379
1.91411 1.476449
EOD
$block7 << EOD
0.514667 1.394620
0.889789 1.396007
1.72583 1.454465
EOD
$block8 << EOD
0.579471 2.386074
1.00143 2.380513
1.53779 2.405983
EOD
$block9 << EOD
0.630021 1.404226
1.08902 1.407504
1.55895 1.455423
EOD
$block10 << EOD
0.630021 1.409994
1.08902 1.423199
1.55895 1.451357
EOD
$block11 << EOD
0.630021 1.397772
1.08902 1.404658
1.55895 1.449840
EOD
$block12 << EOD
0.593035 1.454785
1.09144 1.431911
1.88593 1.465955
EOD
$block13 << EOD
0.613933 1.417179
1.06084 1.418411
1.51531 1.453139
EOD
set terminal svg size 900,520 font 'sans,13' background '#ffffff'
set output name.'.svg'
plot $block0 with linespoints pt 7 ps 0.7 lc 1 title 'choice', \
  $block1 with linespoints pt 7 ps 0.7 lc 2 title 'mod', \
  $block2 with linespoints pt 7 ps 0.7 lc 3 title 'mod-aux', \
  $block3 with linespoints pt 7 ps 0.7 lc 4 title 'mod-c0.06', \
  $block4 with linespoints pt 7 ps 0.7 lc 5 title 'mod-c0.25', \
  $block5 with linespoints pt 7 ps 0.7 lc 6 title 'mod-c0.5', \
  $block6 with linespoints pt 7 ps 0.7 lc 7 title 'mod-c1', \
  $block7 with linespoints pt 7 ps 0.7 lc 8 title 'mod-d3', \
  $block8 with linespoints pt 7 ps 0.7 lc 9 title 'mod-e1', \
  $block9 with linespoints pt 7 ps 0.7 lc 10 title 'mod-m2', \
  $block10 with linespoints pt 7 ps 0.7 lc 11 title 'mod-one', \
  $block11 with linespoints pt 7 ps 0.7 lc 12 title 'mod-sigmoid', \
  $block12 with linespoints pt 7 ps 0.7 lc 13 title 'plain', \
  $block13 with linespoints pt 7 ps 0.7 lc 14 title 'stochastic'
set terminal pngcairo size 1350,780 font 'sans,18'
set output name.'.png'
replot
