package swift

import "time"

// SetYoung has a token that was refused replaced when it is older than d.
func SetYoung(b *Bucket, d time.Duration) { b.auth.young = d }

// Token returns the token of the last request.
func Token(b *Bucket) string { return b.auth.last.Load().token }
