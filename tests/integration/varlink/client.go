// SPDX-License-Identifier: MIT
// The control socket by an independent implementation of varlink: what it says of itself is parsed, GetStatus is
// called, a wrong call is refused, and events are followed until a generation serves.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/varlink/go/varlink"
	"github.com/varlink/go/varlink/idl"
)

const manager = "dev.handoff.Manager"

func check(err error, what string) {
	if err != nil {
		fmt.Fprintln(os.Stderr, what, err)
		os.Exit(1)
	}
}

func describe(ctx context.Context, c *varlink.Connection) {
	var vendor, product, version, url string
	var interfaces []string
	check(c.GetInfo(ctx, &vendor, &product, &version, &url, &interfaces), "GetInfo:")
	fmt.Println("product", product)
	for _, name := range interfaces {
		text, err := c.GetInterfaceDescription(ctx, name)
		check(err, "GetInterfaceDescription:")
		// this parser knows no capitals in names of interfaces, which the specification allows
		parsed, err := idl.New(strings.Replace(text, "interface "+manager, "interface dev.handoff.manager", 1))
		check(err, name)
		fmt.Println("interface", name, len(parsed.Methods) > 0)
	}
}

func status(ctx context.Context, c *varlink.Connection) {
	var reply struct {
		Status struct {
			Version  int `json:"version"`
			Services []struct {
				Name       string `json:"name"`
				Generation int    `json:"generation"`
			} `json:"services"`
		} `json:"status"`
	}
	check(c.Call(ctx, manager+".GetStatus", struct{}{}, &reply), "GetStatus:")
	for _, s := range reply.Status.Services {
		fmt.Println("service", s.Name, s.Generation)
	}
}

func refused(ctx context.Context, c *varlink.Connection) {
	var nothing json.RawMessage
	var e *varlink.Error
	var unknown *varlink.MethodNotFound
	err := c.Call(ctx, manager+".Stop", map[string]interface{}{"services": []string{"nobody"}}, &nothing)
	if !errors.As(err, &e) || e.Name != manager+".Failed" {
		check(fmt.Errorf("%v", err), "Stop of nobody:")
	}
	err = c.Call(ctx, manager+".Nonsense", struct{}{}, &nothing)
	if !errors.As(err, &unknown) {
		check(fmt.Errorf("%v", err), "Nonsense:")
	}
}

func follow(ctx context.Context, c *varlink.Connection) {
	receive, err := c.Send(ctx, manager+".Events", map[string]interface{}{"follow": true, "lines": 0}, varlink.More)
	check(err, "Events:")
	for first := true; ; first = false {
		var reply struct {
			Events []struct {
				Event      string `json:"event"`
				Generation *int   `json:"generation"`
			} `json:"events"`
		}
		flags, err := receive(ctx, &reply)
		check(err, "an event:")
		if flags&varlink.Continues == 0 {
			check(errors.New("the stream has ended"), "Events:")
		}
		if first {
			fmt.Println("following")
		}
		for _, e := range reply.Events {
			if e.Event == "generation-serving" {
				fmt.Println("serving", *e.Generation)
				return
			}
		}
	}
}

func main() {
	ctx := context.Background()
	c, err := varlink.NewConnection(ctx, "unix:"+os.Args[1])
	check(err, "connect:")
	describe(ctx, c)
	status(ctx, c)
	refused(ctx, c)
	follow(ctx, c)
}
