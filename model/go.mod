module github.com/ferrymq/ferry/model

go 1.26.0

require (
	github.com/ferrymq/ferry v0.0.0
	pgregory.net/rapid v1.3.0
)

replace github.com/ferrymq/ferry => ../
