module github.com/libp2p/go-reuseport

go 1.25.6
