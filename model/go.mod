module github.com/ferrymq/ferry/model

go 1.26.0

require (
	github.com/ferrymq/ferry v0.0.0
	pgregory.net/rapid v1.3.0
)

require (
	golang.org/x/crypto v0.58.0 // indirect
	golang.org/x/sys v0.49.0 // indirect
)

replace github.com/ferrymq/ferry => ../
