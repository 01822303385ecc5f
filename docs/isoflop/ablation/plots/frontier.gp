name = 'frontier'
set key outside right top
set grid lc rgb '#dddddd'
set border 3
set tics nomirror
set logscale x
set xlabel 'training FLOPs'
set ylabel 'loss of the optimum, causal (nats)'
$block0 << EOD
1e+13 1.387109 1.361298 1.402910
EOD
$block1 << EOD
1e+13 1.397433 1.380065 1.409871
EOD
$block2 << EOD
1e+13 1.383808 1.354743 1.399100
EOD
$block3 << EOD
1e+13 1.398042 1.398042 1.398042
EOD
$block4 << EOD
1e+13 1.380731 1.351270 1.396375
EOD
$block5 << EOD
1e+13 1.392791 1.359803 1.408521
EOD
$block6 << EOD
1e+13 1.431797 1.408392 1.454285
EOD
$block7 << EOD
1e+13 1.389262 1.353375 1.402469
EOD
$block8 << EOD
1e+13 1.394087 1.368457 1.409841
EOD
$block9 << EOD
1e+13 1.409340 1.409340 1.409340
EOD
$block10 << EOD
1e+13 1.390470 1.360357 1.405716
EOD
$block11 << EOD
1e+13 1.428416 1.414536 1.442614
EOD
$block12 << EOD
1e+13 1.417724 1.400716 1.429462
EOD
$block13 << EOD
1e+13 1.416601 1.399229 1.428556
EOD
set terminal svg size 900,520 font 'sans,13' background '#ffffff'
set output name.'.svg'
plot $block0 with yerrorlines lc rgb '#0072b2' dt 1 pt 7 ps 1.0 title 'choice', \
  $block1 with yerrorlines lc rgb '#d55e00' dt 1 pt 7 ps 1.0 title 'mod', \
  $block2 with yerrorlines lc rgb '#009e73' dt 1 pt 7 ps 1.0 title 'mod-aux', \
  $block3 with yerrorlines lc rgb '#cc79a7' dt 1 pt 7 ps 1.0 title 'mod-c0.06', \
  $block4 with yerrorlines lc rgb '#e69f00' dt 1 pt 7 ps 1.0 title 'mod-c0.25', \
  $block5 with yerrorlines lc rgb '#56b4e9' dt 1 pt 7 ps 1.0 title 'mod-c0.5', \
  $block6 with yerrorlines lc rgb '#8c564b' dt 1 pt 7 ps 1.0 title 'mod-c1', \
  $block7 with yerrorlines lc rgb '#000000' dt 1 pt 7 ps 1.0 title 'mod-d3', \
  $block8 with yerrorlines lc rgb '#d55e00' dt 2 pt 6 ps 1.0 title 'mod-m2', \
  $block9 with yerrorlines lc rgb '#009e73' dt 2 pt 6 ps 1.0 title 'mod-one', \
  $block10 with yerrorlines lc rgb '#cc79a7' dt 2 pt 6 ps 1.0 title 'mod-sigmoid', \
  $block11 with yerrorlines lc rgb '#e69f00' dt 2 pt 6 ps 1.0 title 'plain', \
  $block12 with yerrorlines lc rgb '#56b4e9' dt 2 pt 6 ps 1.0 title 'plain-b6', \
  $block13 with yerrorlines lc rgb '#8c564b' dt 2 pt 6 ps 1.0 title 'stochastic'
set terminal pngcairo size 1350,780 font 'sans,18'
set output name.'.png'
replot
