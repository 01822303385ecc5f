name = 'frontier'
set key outside right top
set grid lc rgb '#dddddd'
set border 3
set tics nomirror
set logscale x
set xlabel 'training FLOPs'
set ylabel 'loss of the optimum, causal (nats)'
$block0 << EOD
3e+13 1.308534 1.283385 1.326738
1e+14 1.241670 1.241670 1.241670
3e+14 1.186874 1.182374 1.191097
EOD
$block1 << EOD
3e+13 1.318972 1.304034 1.336977
1e+14 1.236965 1.221625 1.249751
3e+14 1.182743 1.175935 1.189302
EOD
$block2 << EOD
3e+13 1.325540 1.317912 1.332700
1e+14 1.259518 1.255977 1.262081
EOD
set terminal svg size 900,520 font 'sans,13' background '#ffffff'
set output name.'.svg'
plot $block0 with yerrorlines pt 7 lc 1 title 'mod', \
  $block1 with yerrorlines pt 7 lc 2 title 'plain', \
  $block2 with yerrorlines pt 7 lc 3 title 'stochastic'
set terminal pngcairo size 1350,780 font 'sans,18'
set output name.'.png'
replot
