# SPDX-License-Identifier: GPL-2.0-or-later
# gnuplot: instructions an I/O, a group of bars for each case, as chart.sh writes them into the file `data`: a line of
# names, then a line for each case. `cases` and `columns` (subjects) are how many there are. Only what it is given goes into the drawing.
# As wide as the bars and the names below them need
group = (columns + 2) * 16
wide = 160 + cases * (group > 150 ? group : 150)
set terminal svg size (wide > 800 ? wide : 800),520 dynamic font 'sans-serif,13' name 'cost' noenhanced
set output out
set title 'Instructions an I/O, less is better' textcolor rgb '#777777'
set datafile separator '\t'
set datafile missing '-'
set style data histogram
set style histogram clustered gap 1.5
set style fill solid 1.0 noborder
set boxwidth 0.95
set xrange [-0.7:cases - 0.3]
set bmargin 6
set logscale y 10
set format y '%.0s %c'
set yrange [1000:*]
set grid ytics linecolor rgb '#999999' linewidth 0.5
set border 3 linecolor rgb '#999999'
set xtics nomirror scale 0 textcolor rgb '#777777'
set ytics nomirror textcolor rgb '#777777'
set key outside bottom center horizontal Left reverse textcolor rgb '#777777'
array colour[7] = ['#8c8c8c', '#1f77d0', '#17a2a2', '#e08a1e', '#c2457a', '#8a63d2', '#5a9e3a']
plot for [i = 2:columns + 1] data using i:xtic(1) title columnheader(i) linecolor rgb colour[1 + (i - 2) % 7]
