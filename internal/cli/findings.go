package cli

import (
	"context"
	"fmt"
	"os"

	"golang.org/x/term"

	"github.com/bootwell/bootwell/internal/doctor"
)

// ShowFindings shows what a doctor found: a table and what to do, or with
// --json one document. Its error is that of ctx, or only the exit code when
// there is a problem.
func ShowFindings(ctx context.Context, s *Session, fs doctor.Findings) error {
	doc := struct {
		Checks   doctor.Findings `json:"checks"`
		Problems int             `json:"problems"`
		Warnings int             `json:"warnings"`
		Unknown  int             `json:"unknown"`
	}{fs, fs.Count(doctor.Problem), fs.Count(doctor.Warning), fs.Count(doctor.Unknown)}
	if err := s.Event(doc); err != nil {
		return err
	}
	if !s.JSON {
		s.Printf("%s", fs.Text(s.outWidth()))
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("not all was looked at: %w", err)
	}
	if doc.Problems > 0 {
		return Silent(ErrUnhealthy)
	}
	return nil
}

// outWidth is the width of the terminal at stdout; 0 when there is none, and
// nothing needs to fit.
func (s *Session) outWidth() int {
	f, ok := s.Stdout.(*os.File)
	if !ok || !isTerminal(f) {
		return 0
	}
	if w, _, err := term.GetSize(int(f.Fd())); err == nil && w > 20 {
		return w - 1 // a full last column makes some terminals add a line
	}
	return 80
}
