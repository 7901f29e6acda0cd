//go:build race

package real

func init() { racing = true }
