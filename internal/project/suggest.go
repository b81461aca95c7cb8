package project

import (
	"sort"
	"strings"
)

// nearest returns the candidate that s was probably meant to be, or "". It
// allows one slip for short words and one more for each four letters.
func nearest(s string, candidates []string) string {
	if len(s) > 64 {
		return ""
	}
	best, most := "", 1+len(s)/4
	sorted := append([]string(nil), candidates...)
	sort.Strings(sorted)
	for _, c := range sorted {
		if len(c) > 64 || c == s {
			continue
		}
		if d := distance(strings.ToLower(s), strings.ToLower(c)); d <= most && d < len(c) {
			best, most = c, d-1
		}
	}
	return best
}

// distance is the number of letters to insert, delete, change or swap with
// their neighbour that turns a into b (optimal string alignment).
func distance(a, b string) int {
	x, y := []rune(a), []rune(b)
	rows := make([][]int, len(x)+1)
	for i := range rows {
		rows[i] = make([]int, len(y)+1)
		rows[i][0] = i
	}
	for j := range rows[0] {
		rows[0][j] = j
	}
	for i := 1; i <= len(x); i++ {
		for j := 1; j <= len(y); j++ {
			cost := 1
			if x[i-1] == y[j-1] {
				cost = 0
			}
			rows[i][j] = min(rows[i-1][j]+1, rows[i][j-1]+1, rows[i-1][j-1]+cost)
			if i > 1 && j > 1 && x[i-1] == y[j-2] && x[i-2] == y[j-1] {
				rows[i][j] = min(rows[i][j], rows[i-2][j-2]+1)
			}
		}
	}
	return rows[len(x)][len(y)]
}

// meant words a suggestion as a sentence, or returns "".
func meant(s string, candidates []string) string {
	if c := nearest(s, candidates); c != "" {
		return "Did you mean " + c + "?"
	}
	return ""
}
