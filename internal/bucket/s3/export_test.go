package s3

// ReplaceAtOnce has keys replaced from the first moment when the server rejects
// them.
func ReplaceAtOnce(b *Bucket) { b.keys.Young = 0 }
