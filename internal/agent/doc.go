// Package agent provisions one VM: it polls the bucket, verifies and stages
// the release of its channel, runs the steps and checks of its role, and
// reports.
//
//   - A run is one pass over the steps and checks. A poll is a look at the
//     bucket, which may lead to a run.
//   - The state is what this VM has and remembers between runs; the journal is
//     where a run is. Both are files that are replaced whole, so that a VM that
//     loses power anywhere finds the old or the new text and converges.
//   - current is the tree whose steps ran last; last-good the last tree that
//     passed its checks.
//   - A release that failed its attempts is quarantined: this VM refuses it
//     until its channel names another one.
package agent
