package spec

import (
	"maps"
	"slices"

	"obuilder.org/obuilder/spec/sexp"
)

// Validate checks what [Parse] does not leave to chance, for specs made in Go:
// each copy from a build names one that is in scope there, and the parts of
// the spec are all there. The error is an [*Error].
func (s *Spec) Validate() error { return s.validate(nil) }

// validate checks s where the builds in scope can be copied from.
func (s *Spec) validate(scope map[string]bool) error {
	if len(s.Builds) > 0 {
		scope = maps.Clone(scope)
		if scope == nil {
			scope = map[string]bool{}
		}
	}
	for _, b := range s.Builds {
		if b.Spec == nil {
			return sexp.Errorf(b.Pos, "the nested build %q has no spec", b.Name)
		}
		if err := b.Spec.validate(scope); err != nil {
			return err
		}
		scope[b.Name] = true
	}
	for i, op := range s.Ops {
		switch op := op.(type) {
		case Comment, Workdir, Shell, Env, SetUser, Run:
		case Copy:
			if op.FromBuild && !scope[op.From] {
				hint := sexp.DidYouMean(op.From, "the builds that can be copied from here are", slices.Sorted(maps.Keys(scope)))
				if hint == "" {
					hint = "a build must come before what copies from it: ((build NAME (...)) (from BASE) ...)"
				}
				e := sexp.Errorf(op.Pos, "copy from the unknown build %q", op.From)
				e.Hint = hint
				return e
			}
			if !op.FromBuild && op.From != "" {
				return sexp.Errorf(op.Pos, "copy names the build %q and is not from a build", op.From)
			}
		default:
			return sexp.Errorf(s.FromPos, "operation %d is a %T, which is not one of the values of this package", i+1, op)
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
