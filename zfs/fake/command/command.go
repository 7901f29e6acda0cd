package command

import (
	"context"
	"io"

	"obuilder.org/obuilder/zfs/fake"
)

func Run(ctx context.Context, m *fake.Machine, argv []string, stdin io.Reader, stdout, stderr io.Writer) int {
	return 125
}
