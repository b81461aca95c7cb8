package operator

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/bootwell/bootwell/internal/cli"
	"github.com/bootwell/bootwell/internal/project"
)

func newValidateCmd(s *cli.Session) *cobra.Command {
	var schema bool
	c := &cobra.Command{
		Use: "validate", GroupID: "project", Args: cobra.NoArgs,
		Short: "Check the project file and what it names",
		Long: `Checks bootwell.yaml and the files it names: all problems at once, each with its
place and what to write instead. Needs no network. Exit code 4 if there are errors.`,
		Example: `  bootwell validate
  bootwell validate --json            diagnostics for editors and CI
  bootwell validate --schema          the JSON Schema, for offline use`,
		RunE: func(c *cobra.Command, _ []string) error {
			if schema {
				s.Printf("%s", project.Schema())
				return nil
			}
			return runValidate(s)
		},
	}
	c.Flags().BoolVar(&schema, "schema", false, "print the JSON Schema of the project file")
	return c
}

func runValidate(s *cli.Session) error {
	w, err := loadProject(s, true)
	if err != nil {
		return err
	}
	if s.JSON {
		return s.Event(map[string]any{"valid": true, "roles": len(w.roles), "steps": w.steps(), "diagnostics": append(project.Diagnostics{}, w.proj.Warnings()...)})
	}
	s.Printf("%s is valid: %s\n", project.FileName, w.counts())
	return nil
}

// showDiagnostics prints problems of the project file; errors end the command.
func showDiagnostics(s *cli.Session, diags project.Diagnostics, warn bool) error {
	bad := diags.Errors() > 0
	if !bad && (!warn || len(diags) == 0) {
		return nil
	}
	if !s.JSON || !bad {
		if err := project.Render(s.Stderr, diags, s.Color()); err != nil {
			return fmt.Errorf("write stderr: %w", err)
		}
	}
	annotate(s, diags)
	if !bad {
		return warnEvents(s, diags)
	}
	if s.JSON {
		if err := s.Event(map[string]any{"valid": false, "diagnostics": diags}); err != nil {
			return err
		}
	}
	return &cli.UsageError{Message: "the project file has errors", Shown: !s.JSON}
}

// warnEvents tells machines of warnings; people read them on stderr.
func warnEvents(s *cli.Session, diags project.Diagnostics) error {
	if s.Command() == "validate" { // its one document has them
		return nil
	}
	for _, d := range diags {
		if err := s.Event(map[string]any{"type": "warning", "code": d.Code, "file": d.File, "line": d.Line, "summary": d.Summary}); err != nil {
			return err
		}
	}
	return nil
}

// annotate puts the problems beside the lines of a pull request, in the form
// of GitHub's workflow commands.
func annotate(s *cli.Session, diags project.Diagnostics) {
	if s.Getenv("GITHUB_ACTIONS") != "true" {
		return
	}
	for _, d := range diags {
		text := strings.NewReplacer("%", "%25", "\r", "%0D", "\n", "%0A").Replace(d.Summary + ". " + d.Detail)
		fmt.Fprintf(s.Stderr, "::%s file=%s,line=%d,col=%d::%s\n", d.Severity, d.File, d.Line, d.Column, text)
	}
}

func newExplainCmd(s *cli.Session) *cobra.Command {
	return &cobra.Command{
		Use: "explain CODE", GroupID: "project", Args: exactly(1, "one code, such as W104"),
		Short: "Tell the long story behind a warning or error code",
		RunE: func(_ *cobra.Command, args []string) error {
			code := strings.ToUpper(args[0])
			text, ok := project.Explain(code)
			if !ok {
				return cli.Hint(cli.NoMatch("no code %s", code), "codes: %s", strings.Join(project.Codes(), " "))
			}
			if s.JSON {
				return s.Event(map[string]any{"code": code, "text": text})
			}
			s.Printf("%s\n", strings.TrimSpace(text))
			return nil
		},
	}
}
