// Package release holds what bootwell ships and what VMs say of it: digests,
// manifests, steps, channels and reports. It does no I/O and knows neither
// buckets nor keys.
//
//   - A release is an immutable, numbered set of files and resolved roles.
//   - A manifest lists a release; its canonical bytes are what is signed.
//   - A blob is a piece of content; a pack is an object that holds many.
//   - A channel is the signed pointer to a release.
//   - A report is what one VM says of itself.
package release
