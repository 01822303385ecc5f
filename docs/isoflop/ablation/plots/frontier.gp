name = 'frontier'
set key outside right top
set grid lc rgb '#dddddd'
set border 3
set tics nomirror
set logscale x
set xlabel 'training FLOPs'
set ylabel 'loss of the optimum, causal (nats)'
$block0 << EOD
1e+13 1.387109 1.387109 1.387109
EOD
$block1 << EOD
1e+13 1.391289 1.391289 1.391289
EOD
$block2 << EOD
1e+13 1.383808 1.383808 1.383808
EOD
$block3 << EOD
1e+13 1.398042 1.398042 1.398042
EOD
$block4 << EOD
1e+13 1.380731 1.380731 1.380731
EOD
$block5 << EOD
1e+13 1.392791 1.392791 1.392791
EOD
$block6 << EOD
1e+13 1.431797 1.431797 1.431797
EOD
$block7 << EOD
1e+13 1.389262 1.389262 1.389262
EOD
$block8 << EOD
1e+13 2.377476 2.377476 2.377476
EOD
$block9 << EOD
1e+13 1.394087 1.394087 1.394087
EOD
$block10 << EOD
1e+13 1.409340 1.409340 1.409340
EOD
$block11 << EOD
1e+13 1.390470 1.390470 1.390470
EOD
$block12 << EOD
1e+13 1.431251 1.431251 1.431251
EOD
$block13 << EOD
1e+13 1.409112 1.409112 1.409112
EOD
set terminal svg size 900,520 font 'sans,13' background '#ffffff'
set output name.'.svg'
plot $block0 with yerrorlines pt 7 lc 1 title 'choice', \
  $block1 with yerrorlines pt 7 lc 2 title 'mod', \
  $block2 with yerrorlines pt 7 lc 3 title 'mod-aux', \
  $block3 with yerrorlines pt 7 lc 4 title 'mod-c0.06', \
  $block4 with yerrorlines pt 7 lc 5 title 'mod-c0.25', \
  $block5 with yerrorlines pt 7 lc 6 title 'mod-c0.5', \
  $block6 with yerrorlines pt 7 lc 7 title 'mod-c1', \
  $block7 with yerrorlines pt 7 lc 8 title 'mod-d3', \
  $block8 with yerrorlines pt 7 lc 9 title 'mod-e1', \
  $block9 with yerrorlines pt 7 lc 10 title 'mod-m2', \
  $block10 with yerrorlines pt 7 lc 11 title 'mod-one', \
  $block11 with yerrorlines pt 7 lc 12 title 'mod-sigmoid', \
  $block12 with yerrorlines pt 7 lc 13 title 'plain', \
  $block13 with yerrorlines pt 7 lc 14 title 'stochastic'
set terminal pngcairo size 1350,780 font 'sans,18'
set output name.'.png'
replot
