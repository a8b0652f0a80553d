module github.com/ferrymq/ferry/bench

go 1.26
