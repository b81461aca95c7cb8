package project

import (
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/bootwell/bootwell/internal/release"
	"go.yaml.in/yaml/v3"
)

var (
	wholeNumber = regexp.MustCompile(`^-?(0|[1-9][0-9]*)$`)
	namePattern = regexp.MustCompile(`^[a-z][a-z0-9_-]{0,38}$`)
	varPattern  = regexp.MustCompile(`^[a-z][a-z0-9_]{0,38}$`)
	durPattern  = regexp.MustCompile(`^([0-9]+h)?([0-9]+m)?([0-9]+s)?$`)
	modePattern = regexp.MustCompile(`^[0-7]{4}$`)
)

// maxWhole bounds whole numbers to what canonical JSON (RFC 8785) keeps exact.
const maxWhole = 1<<53 - 1

// oldBool holds the words that YAML 1.1 readers take for true or false and
// YAML 1.2 readers for text.
var oldBool = map[string]string{"yes": "true", "on": "true", "no": "false", "off": "false"}

func isOldBool(n *yaml.Node) bool {
	_, ok := oldBool[strings.ToLower(n.Value)]
	return ok && n.Kind == yaml.ScalarNode && n.Style == 0
}

// write words a remedy: field: "v", or just "v" for an item of a list.
func write(field, v string) string {
	if strings.ContainsAny(field, " .") {
		return "Write " + v
	}
	return "Write: " + field + ": " + v
}

// reading says what YAML makes of an unquoted scalar.
func reading(n *yaml.Node) string {
	switch n.ShortTag() {
	case "!!bool":
		return "a boolean"
	case "!!timestamp":
		return "a date"
	case "!!int", "!!float":
		var v any
		if n.Decode(&v) == nil {
			if f, ok := v.(float64); ok {
				return "the number " + strconv.FormatFloat(f, 'g', -1, 64)
			}
			return fmt.Sprintf("the number %v", v)
		}
		return "a number"
	}
	return n.ShortTag()
}

// kind names what n is, for messages.
func kind(n *yaml.Node) string {
	switch {
	case n.Kind == yaml.MappingNode:
		return "fields"
	case n.Kind == yaml.SequenceNode:
		return "a list"
	case n.ShortTag() == "!!null":
		return "nothing"
	}
	return "text"
}

// text returns the text at n, a scalar that YAML reads as text.
func (p *parser) text(n *yaml.Node, field string) (string, bool) {
	if !p.scalar(n, field, "text") {
		return "", false
	}
	switch n.ShortTag() {
	case "!!str":
		if isOldBool(n) {
			p.warn(n, "W101", fmt.Sprintf("%s: %s is text here, and %s for older readers of YAML", field, n.Value, oldBool[strings.ToLower(n.Value)]), write(field, strconv.Quote(n.Value)))
		}
		return n.Value, true
	case "!!int", "!!float", "!!bool", "!!timestamp":
		p.fail(n, "E204", field+" must be in quotes", fmt.Sprintf("YAML reads %s as %s. %s", n.Value, reading(n), write(field, strconv.Quote(n.Value))))
	default:
		p.fail(n, "E203", fmt.Sprintf("%s: the tag %s is not known here", field, n.Tag), "Remove the tag")
	}
	return "", false
}

// scalar reports a list, a mapping or nothing where one value must be.
func (p *parser) scalar(n *yaml.Node, field, want string) bool {
	switch {
	case n.Kind != yaml.ScalarNode:
		p.fail(n, "E203", fmt.Sprintf("%s must be %s, not %s", field, want, kind(n)), "")
		return false
	case n.ShortTag() == "!!null":
		p.fail(n, "E205", field+" has no value", "Give it one or remove the line")
		return false
	}
	return true
}

// words is text that must not be empty and stays on one line.
func (p *parser) words(n *yaml.Node, field string) (string, bool) {
	s, ok := p.text(n, field)
	if !ok {
		return "", false
	}
	if strings.TrimSpace(s) == "" {
		p.fail(n, "E205", field+" is empty", "Give it a value or remove the line")
		return "", false
	}
	if strings.ContainsFunc(s, func(c rune) bool { return c < 0x20 || c == 0x7f }) {
		p.fail(n, "E203", field+" must be one line", "")
		return "", false
	}
	return s, true
}

// textOrNumber is text, or a whole number in its plain spelling, as people
// write ports in env and args.
func (p *parser) textOrNumber(n *yaml.Node, field string) (string, bool) {
	if n.Kind == yaml.ScalarNode && n.ShortTag() == "!!int" && wholeNumber.MatchString(n.Value) {
		return n.Value, true
	}
	s, ok := p.text(n, field)
	if ok && strings.ContainsRune(s, 0) {
		p.fail(n, "E203", field+" must not hold a NUL character", "")
		return "", false
	}
	return s, ok
}

func (p *parser) bool(n *yaml.Node, field string) (value, ok bool) {
	if !p.scalar(n, field, "true or false") {
		return false, false
	}
	if n.ShortTag() == "!!bool" {
		var v bool
		if n.Decode(&v) == nil {
			return v, true
		}
	}
	detail := write(field, "true")
	if b, ok := oldBool[strings.ToLower(n.Value)]; ok {
		detail = fmt.Sprintf("YAML 1.2 reads %s as text. %s", n.Value, write(field, b))
	} else if low := strings.ToLower(n.Value); low == "true" || low == "false" {
		detail = "Without quotes. " + write(field, low)
	}
	p.fail(n, "E206", field+" must be true or false", detail)
	return false, false
}

func (p *parser) boolPtr(n *yaml.Node, field string) *bool {
	v, ok := p.bool(n, field)
	if !ok {
		return nil
	}
	return &v
}

func (p *parser) whole64(n *yaml.Node, field string, low, high int64) (int64, bool) {
	if !p.scalar(n, field, "a whole number") {
		return 0, false
	}
	v, err := strconv.ParseInt(n.Value, 10, 64)
	if n.ShortTag() != "!!int" || !wholeNumber.MatchString(n.Value) || err != nil {
		detail := ""
		if wholeNumber.MatchString(strings.TrimSpace(n.Value)) {
			detail = "Without quotes. " + write(field, strings.TrimSpace(n.Value))
		}
		p.fail(n, "E203", fmt.Sprintf("%s %q must be a whole number", field, n.Value), detail)
		return 0, false
	}
	switch {
	case v < low:
		p.fail(n, "E211", fmt.Sprintf("%s %d: at least %d", field, v, low), "")
		return 0, false
	case v > high:
		p.fail(n, "E211", fmt.Sprintf("%s %d: at most %d", field, v, high), "")
		return 0, false
	}
	return v, true
}

func (p *parser) int(n *yaml.Node, field string, low, high int, into *int) {
	if v, ok := p.whole64(n, field, int64(low), int64(high)); ok {
		*into = int(v)
	}
}

// choice returns the word at n, one of the choices. meaning holds words
// people bring from elsewhere and what to tell them.
func (p *parser) choice(n *yaml.Node, field string, choices []string, meaning map[string]string) (string, bool) {
	if !p.scalar(n, field, "one of "+orList(choices)) {
		return "", false
	}
	if n.ShortTag() == "!!str" && slices.Contains(choices, n.Value) {
		return n.Value, true
	}
	use := orList(choices)
	if m, ok := meaning[strings.ToLower(n.Value)]; ok {
		use = m
	}
	p.fail(n, "E208", fmt.Sprintf("%s %q: use %s", field, n.Value, use), meant(n.Value, choices))
	return "", false
}

func orList(words []string) string {
	if len(words) < 2 {
		return strings.Join(words, "")
	}
	return strings.Join(words[:len(words)-1], ", ") + " or " + words[len(words)-1]
}

var looseDuration = regexp.MustCompile(`(?i)^\s*([0-9]+)\s*(s|sec|secs|second|seconds|m|min|mins|minute|minutes|h|hour|hours|d|day|days)?\s*$`)

// duration returns the time at n, such as 90s, 5m or 1h30m.
func (p *parser) duration(n *yaml.Node, field string, low, high time.Duration) (release.Duration, bool) {
	if !p.scalar(n, field, "a time such as 10m") {
		return 0, false
	}
	if n.ShortTag() != "!!str" || n.Value == "" || !durPattern.MatchString(n.Value) {
		p.fail(n, "E210", fmt.Sprintf("%s %q: write %s", field, n.Value, asDuration(n.Value)), "Times are whole numbers with h, m or s: 90s, 5m, 1h30m")
		return 0, false
	}
	d, err := time.ParseDuration(n.Value)
	switch {
	case err != nil || d > high:
		p.fail(n, "E211", fmt.Sprintf("%s %s: at most %s", field, n.Value, brief(high)), "")
		return 0, false
	case d < low:
		p.fail(n, "E211", fmt.Sprintf("%s %s is too short: at least %s", field, n.Value, brief(low)), "")
		return 0, false
	}
	return release.Duration(d), true
}

// asDuration guesses the duration somebody meant.
func asDuration(s string) string {
	m := looseDuration.FindStringSubmatch(s)
	if m == nil || len(m[1]) > 9 {
		return "a time such as 10m"
	}
	n, _ := strconv.Atoi(m[1])
	switch {
	case m[2] == "":
		return m[1] + "s"
	case strings.EqualFold(m[2][:1], "d"):
		return strconv.Itoa(24*n) + "h"
	}
	return m[1] + strings.ToLower(m[2][:1])
}

// brief writes d as people do: 1h, not 1h0m0s.
func brief(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// list calls each for the items of the list at n. example shows how to write it.
func (p *parser) list(n *yaml.Node, field, of, example string, each func(i int, item *yaml.Node)) {
	if n.Kind == yaml.ScalarNode && n.ShortTag() == "!!null" {
		p.fail(n, "E205", field+" has no value", "Give it one or remove the line")
		return
	}
	if n.Kind != yaml.SequenceNode {
		if n.Kind == yaml.ScalarNode && n.Value != "" && !strings.ContainsAny(n.Value, ",\n[]{}:#") {
			example = "[" + n.Value + "]"
		}
		p.fail(n, "E203", fmt.Sprintf("%s must be a list%s", field, of), write(field, example))
		return
	}
	for i, c := range n.Content {
		each(i, resolved(c))
	}
}

// full reports an empty list where one with items must be.
func (p *parser) full(n *yaml.Node, field string) bool {
	if n.Kind == yaml.SequenceNode && len(n.Content) == 0 {
		p.fail(n, "E205", field+" is an empty list", "Give it an item or remove the line")
		return false
	}
	return true
}

// texts returns a list of one-line texts.
func (p *parser) texts(n *yaml.Node, field, of, example string, check func(n *yaml.Node, s string) bool) []string {
	var out []string
	p.list(n, field, of, example, func(_ int, item *yaml.Node) {
		if s, ok := p.words(item, "an item of "+field); ok && (check == nil || check(item, s)) {
			out = append(out, s)
		}
	})
	return out
}

// oneOrMore accepts a text or a list of texts, which may have several lines.
func (p *parser) oneOrMore(n *yaml.Node, field string, check func(n *yaml.Node, s string) bool) []string {
	if n.Kind == yaml.ScalarNode {
		if s, ok := p.text(n, field); ok && check(n, s) {
			return []string{s}
		}
		return nil
	}
	var out []string
	p.list(n, field, "", "[text]", func(_ int, item *yaml.Node) {
		if s, ok := p.text(item, "an item of "+field); ok && check(item, s) {
			out = append(out, s)
		}
	})
	return out
}

// vars returns the variables at n.
func (p *parser) vars(n *yaml.Node, field string) release.Vars {
	if !p.isMapping(n, field, "{ server_name: www.example.org }") {
		return nil
	}
	vars := release.Vars{}
	for _, f := range pairs(n) {
		name := f.key.Value
		if !varPattern.MatchString(name) {
			p.fail(f.key, "E209", fmt.Sprintf("var %q: use lower-case letters, digits and _, starting with a letter, at most 39", name), tryName(name, '_'))
			continue
		}
		if v, ok := p.varValue(f.value, field+"."+name, true); ok {
			vars[name] = v
		}
	}
	return vars
}

func (p *parser) varValue(n *yaml.Node, field string, lists bool) (any, bool) {
	if n.Kind == yaml.SequenceNode && lists {
		items := []any{}
		for _, c := range n.Content {
			if v, ok := p.varValue(resolved(c), "an item of "+field, false); ok {
				items = append(items, v)
			}
		}
		return items, true
	}
	if n.Kind != yaml.ScalarNode {
		p.fail(n, "E315", field+" must be text, a whole number, true, false or a list of these", "Use several vars instead of nested ones")
		return nil, false
	}
	quote := "Write " + strconv.Quote(n.Value)
	switch tag := n.ShortTag(); {
	case tag == "!!null":
		p.fail(n, "E205", field+" has no value", `Write "" for an empty text`)
	case isOldBool(n):
		b := oldBool[strings.ToLower(n.Value)]
		p.fail(n, "E206", fmt.Sprintf("%s: %s is %s for some readers of YAML and text for others", field, n.Value, b), fmt.Sprintf("Write %s, or %q for the text", b, n.Value))
	case tag == "!!str" && strings.ContainsRune(n.Value, 0):
		p.fail(n, "E315", field+" must not hold a NUL character", "")
	case tag == "!!str":
		return n.Value, true
	case tag == "!!bool":
		var b bool
		if n.Decode(&b) == nil {
			return b, true
		}
	case tag == "!!int" && wholeNumber.MatchString(n.Value):
		i, err := strconv.ParseInt(n.Value, 10, 64)
		if err == nil && i >= -maxWhole && i <= maxWhole && n.Value != "-0" {
			return json.Number(n.Value), true
		}
		p.fail(n, "E315", fmt.Sprintf("%s: %s is too large for a number", field, n.Value), quote)
	case tag == "!!int" || tag == "!!float":
		p.fail(n, "E315", fmt.Sprintf("%s: %s reads as %s", field, n.Value, reading(n)), quote)
	case tag == "!!timestamp":
		p.fail(n, "E315", fmt.Sprintf("%s: %s reads as a date", field, n.Value), quote)
	default:
		p.fail(n, "E203", fmt.Sprintf("%s: the tag %s is not known here", field, n.Tag), "Remove the tag")
	}
	return nil, false
}

// tryName suggests a valid name made from s, or "".
func tryName(s string, join byte) string {
	var b strings.Builder
	for _, c := range strings.ToLower(s) {
		switch {
		case c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '_':
			b.WriteRune(c)
		case b.Len() > 0 && b.String()[b.Len()-1] != join:
			b.WriteByte(join)
		}
	}
	t := strings.TrimLeft(b.String(), "0123456789_-")
	t = strings.TrimRight(t[:min(len(t), 39)], "_-")
	if t == "" {
		return ""
	}
	return "Try: " + t
}
