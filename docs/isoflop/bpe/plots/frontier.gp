name = 'frontier'
set key outside right top
set grid lc rgb '#dddddd'
set border 3
set tics nomirror
set logscale x
set xlabel 'training FLOPs'
set ylabel 'loss of the optimum, causal (nats)'
$block0 << EOD
3e+13 3.082424 3.059392 3.102899
EOD
$block1 << EOD
3e+13 3.086160 3.086160 3.086160
EOD
$block2 << EOD
3e+13 3.086189 3.053049 3.113786
EOD
$block3 << EOD
3e+13 3.115254 3.091578 3.136863
1e+14 2.925191 2.925191 2.925191
EOD
$block4 << EOD
3e+13 3.116817 3.079804 3.149290
EOD
set terminal svg size 900,520 font 'sans,13' background '#ffffff'
set output name.'.svg'
plot $block0 with yerrorlines lc rgb '#0072b2' dt 1 pt 7 ps 1.0 title 'mod', \
  $block1 with yerrorlines lc rgb '#d55e00' dt 1 pt 7 ps 1.0 title 'mod-b12', \
  $block2 with yerrorlines lc rgb '#cc79a7' dt 1 pt 7 ps 1.0 title 'mod-c0.25', \
  $block3 with yerrorlines lc rgb '#e69f00' dt 1 pt 7 ps 1.0 title 'plain', \
  $block4 with yerrorlines lc rgb '#8c564b' dt 1 pt 7 ps 1.0 title 'stochastic'
set terminal pngcairo size 1350,780 font 'sans,18'
set output name.'.png'
replot
