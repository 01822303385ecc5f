name = 'frontier'
set key outside right top
set grid lc rgb '#dddddd'
set border 3
set tics nomirror
set logscale x
set xlabel 'training FLOPs'
set ylabel 'loss of the optimum, causal (nats)'
$block0 << EOD
3e+13 3.010341 3.010341 3.010341
EOD
set terminal svg size 900,520 font 'sans,13' background '#ffffff'
set output name.'.svg'
plot $block0 with yerrorlines lc rgb '#0072b2' dt 1 pt 7 ps 1.0 title 'mod'
set terminal pngcairo size 1350,780 font 'sans,18'
set output name.'.png'
replot
