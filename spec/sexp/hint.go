package sexp

import "strings"

// DidYouMean returns a hint for a name that is not one of those known: the
// known names that it may be a slip for, or else all of them, introduced by
// what they are ("the operations are"). It returns "" if none are known.
func DidYouMean(name, they string, known []string) string {
	if len(known) == 0 {
		return ""
	}
	var near []string
	best := max(1, min(len(name)/3, 4)) // how many slips are still likely
	for _, k := range known {
		if len(k)-len(name) > best || len(name)-len(k) > best || len(name) > 100 {
			continue
		}
		d := distance(strings.ToLower(name), strings.ToLower(k))
		if d > best {
			continue
		}
		if d < best {
			best, near = d, nil
		}
		near = append(near, AtomText(k))
	}
	if near != nil {
		return "did you mean " + join(near, "or") + "?"
	}
	all := make([]string, len(known))
	for i, k := range known {
		all[i] = AtomText(k)
	}
	return they + " " + join(all, "and")
}

func join(names []string, last string) string {
	const most = 10
	switch n := len(names) - 1; {
	case n > most:
		return strings.Join(names[:most], ", ") + " and others"
	case n > 0:
		return strings.Join(names[:n], ", ") + " " + last + " " + names[n]
	}
	return names[0]
}

// distance is how many single bytes must be inserted, deleted, replaced or
// swapped with their neighbour to make b from a.
func distance(a, b string) int {
	rows := make([][]int, len(a)+1)
	for i := range rows {
		rows[i] = make([]int, len(b)+1)
		rows[i][0] = i
	}
	for j := range len(b) + 1 {
		rows[0][j] = j
	}
	for i := 1; i <= len(a); i++ {
		for j := 1; j <= len(b); j++ {
			same := 1
			if a[i-1] == b[j-1] {
				same = 0
			}
			d := min(rows[i-1][j]+1, rows[i][j-1]+1, rows[i-1][j-1]+same)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				d = min(d, rows[i-2][j-2]+1)
			}
			rows[i][j] = d
		}
	}
	return rows[len(a)][len(b)]
}
