package spec

import (
	"maps"
	"slices"

	"obuilder.org/obuilder/spec/sexp"
)

// Validate checks what [Parse] does not leave to chance, for specs made in Go:
// each copy from a build names one that is in scope there, and the parts of
// the spec are all there. The error is an [*Error].
func (s *Spec) Validate() error { return s.validate(map[string]int{}) }

// validate checks s where builds are in scope so many times each. It leaves
// the scope as it was.
func (s *Spec) validate(scope map[string]int) error {
	for _, b := range s.Builds {
		if b.Spec == nil {
			return sexp.Errorf(b.Pos, "the nested build %s has no spec", quoteExcerpt(b.Name))
		}
		if err := b.Spec.validate(scope); err != nil {
			return err
		}
		scope[b.Name]++
	}
	for i, op := range s.Ops {
		switch op := op.(type) {
		case Comment, Workdir, Shell, Env, SetUser, Run:
		case Copy:
			if op.FromBuild && scope[op.From] == 0 {
				hint := sexp.DidYouMean(op.From, "the builds that can be copied from here are", slices.Sorted(maps.Keys(scope)))
				if hint == "" {
					hint = "a build must come before what copies from it: ((build NAME (...)) (from BASE) ...)"
				}
				e := sexp.Errorf(op.Pos, "copy from the unknown build %s", quoteExcerpt(op.From))
				e.Hint = hint
				return e
			}
			if !op.FromBuild && op.From != "" {
				return sexp.Errorf(op.Pos, "copy names the build %s and is not from a build", quoteExcerpt(op.From))
			}
		default:
			return sexp.Errorf(s.FromPos, "operation %d is a %T, which is not one of the values of this package", i+1, op)
		}
	}
	for _, b := range s.Builds {
		if scope[b.Name]--; scope[b.Name] == 0 {
			delete(scope, b.Name)
		}
	}
	return nil
}

// CheckCopy checks what can be known of a copy to dst, resolved by
// [Context.CopyDst], before its sources are looked at: that there are any, and
// that several go to a directory. The error is an [*Error].
func CheckCopy(op *Copy, dst string) error {
	if len(op.Src) == 0 {
		return &Error{Pos: op.Pos, Msg: "copy has no sources", Hint: "(src .) copies everything"}
	}
	if len(op.Src) > 1 && !isDir(dst) {
		return &Error{
			Pos:  op.Pos,
			Msg:  "copy has several sources, and its destination does not end with /",
			Hint: "to copy into a directory, write (dst " + sexp.AtomText(op.Dst+"/") + ")",
		}
	}
	return nil
}
