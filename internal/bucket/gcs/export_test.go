package gcs

// ReplaceAtOnce has tokens replaced from the first moment when the server
// refuses them.
func ReplaceAtOnce(b *Bucket) { b.tokens.Young = 0 }
