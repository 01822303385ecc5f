name = 'frontier'
set key outside right top
set grid lc rgb '#dddddd'
set border 3
set tics nomirror
set logscale x
set xlabel 'training FLOPs'
set ylabel 'loss of the optimum, causal (nats)'
$block0 << EOD
3e+13 1.308534 1.296571 1.318316
1e+14 1.239998 1.231799 1.247836
3e+14 1.186874 1.182013 1.191173
EOD
$block1 << EOD
1e+14 1.225927 1.208556 1.241759
3e+14 1.181255 1.175078 1.186040
EOD
$block2 << EOD
3e+13 1.318972 1.305745 1.330957
1e+14 1.239644 1.232231 1.247315
3e+14 1.182743 1.177326 1.187765
EOD
$block3 << EOD
3e+13 1.325540 1.311723 1.338078
1e+14 1.259518 1.249478 1.268299
EOD
set terminal svg size 900,520 font 'sans,13' background '#ffffff'
set output name.'.svg'
plot $block0 with yerrorlines lc rgb '#0072b2' dt 1 pt 7 ps 1.0 title 'mod', \
  $block1 with yerrorlines lc rgb '#d55e00' dt 1 pt 7 ps 1.0 title 'mod-c0.25', \
  $block2 with yerrorlines lc rgb '#8c564b' dt 1 pt 7 ps 1.0 title 'plain', \
  $block3 with yerrorlines lc rgb '#009e73' dt 2 pt 6 ps 1.0 title 'stochastic'
set terminal pngcairo size 1350,780 font 'sans,18'
set output name.'.png'
replot
