package broker

// definition is what a policy says: its keys, with values of the types int64,
// string and bool, and of those that mean nothing here whatever they are in JSON.
type definition map[string]any
