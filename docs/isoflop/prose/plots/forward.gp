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
