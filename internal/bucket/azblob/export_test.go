package azblob

// ReplaceAtOnce has credentials replaced from the first moment when the server
// rejects them.
func ReplaceAtOnce(b *Bucket) { b.creds.Young = 0 }
