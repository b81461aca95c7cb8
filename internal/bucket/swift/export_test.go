package swift

// ReplaceAtOnce has credentials replaced from the first moment when the server
// rejects them.
func ReplaceAtOnce(b *Bucket) { b.auth.Young = 0 }

// Token returns the token of the last request.
func Token(b *Bucket) string { return b.auth.Last().Value.token }
