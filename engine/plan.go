package engine

import (
	"context"
	"errors"
	"maps"

	"obuilder.org/obuilder/spec"
)

// A PlannedStep is what a build would do for one operation that has a result.
type PlannedStep struct {
	Op      string
	Heading string
	Build   []string // names of the nested builds that it is in, outermost first
	Input   string   // what is hashed: the name of the base, or an S-expression
	ID      string   // of the result
	Base    string   // of the result that it is built on; "" for a base
	Cached  bool     // the result is there
	// Unknown says why Input and ID are not known before it is built: it copies
	// from a nested build that is not built yet, or is built on such a step.
	Unknown string
}

// Plan tells emit, in the order of a build, what Build would do. It builds
// nothing; a nested build's home that is copied from is mounted for reading
// where its result is complete.
func (e *Engine) Plan(ctx context.Context, j Job, emit func(PlannedStep)) error {
	b, err := e.begin(ctx, &j, false)
	if err != nil {
		return err
	}
	defer b.held.release()
	p := &planner{engine: e, held: b.held, valid: b.valid, emit: emit, results: map[*stage]PlannedStep{}}
	return p.stage(ctx, b.stage)
}

type planner struct {
	engine  *Engine
	held    *share
	valid   map[string]bool // results that are there and may be used
	emit    func(PlannedStep)
	results map[*stage]PlannedStep // the last step of each stage
}

func (p *planner) stage(ctx context.Context, st *stage) error {
	for _, nested := range st.nested {
		if err := p.stage(ctx, nested); err != nil {
			return err
		}
	}
	last := PlannedStep{Op: "from", Heading: spec.FromHeading(st.from), Build: st.builds, Input: st.from, ID: st.id,
		Cached: p.valid[st.id]}
	p.emit(last)
	for _, o := range st.ops {
		if o.run == nil && o.copy == nil {
			continue
		}
		next := PlannedStep{Op: opName(o.op), Heading: o.heading, Build: st.builds, Base: last.ID, Unknown: last.Unknown}
		if next.Unknown == "" {
			if err := p.identify(ctx, st, o, &next); err != nil {
				return err
			}
		}
		p.emit(next)
		last = next
	}
	p.results[st] = last
	return nil
}

// identify finds the id of a step whose base is known.
func (p *planner) identify(ctx context.Context, st *stage, o *operation, s *PlannedStep) error {
	switch {
	case o.run != nil:
		input := o.runInput(s.Base)
		s.Input, s.ID = input.Sexp(), input.ID()
	case o.copy.from == nil:
		input := o.copyInput(s.Base, o.copy.manifest)
		s.Input, s.ID = input.Sexp(), input.ID()
	default:
		nested := p.results[o.copy.from]
		if !nested.Cached {
			s.Unknown = "it copies from the build " + o.copy.from.name + ", which is not built yet"
			return nil
		}
		tree, release, err := p.engine.openHome(ctx, nested.ID, o.copy.from.children)
		if err != nil {
			return err
		}
		m, err := p.engine.nestedManifest(ctx, tree, o.op.(spec.Copy))
		if err := errors.Join(err, release()); err != nil {
			return located(o.op.Position(), err)
		}
		input := o.copyInput(s.Base, m)
		s.Input, s.ID = input.Sexp(), input.ID()
	}
	if o.id == "" {
		if err := p.held.add(ctx, s.ID); err != nil {
			return err
		}
		if p.valid[s.Base] {
			v, err := p.engine.verify(ctx, []link{{id: s.ID, base: s.Base, children: st.children}})
			if err != nil {
				return err
			}
			maps.Copy(p.valid, v.valid)
		}
	}
	s.Cached = p.valid[s.ID]
	return nil
}
