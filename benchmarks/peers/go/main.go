// The Go client as a measured program. The README, one folder up, has its arguments and its answer.
//
// Settings: socket buffers of 1 MB (with the default of 8 KB it does a thousand messages a second on loopback), batches of
// 1,000, 50 credits, and no check of each chunk's CRC, as this project has none by default.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/rabbitmq/rabbitmq-stream-go-client/pkg/amqp"
	"github.com/rabbitmq/rabbitmq-stream-go-client/pkg/message"
	"github.com/rabbitmq/rabbitmq-stream-go-client/pkg/stream"
)

const (
	socketBuffer = 1 << 20
	batch        = 1000
	credits      = 50
	patience     = 5 * time.Minute
)

type peer struct {
	env      *stream.Environment
	streams  []string
	isSuper  bool
	messages int64
	warmUp   int64
	bodies   [][]byte
	started  time.Time
	cpu      float64
}

func main() {
	log.SetOutput(os.Stderr)
	given := map[string]string{}
	for _, argument := range os.Args[1:] {
		name, value, _ := strings.Cut(argument, "=")
		given[name] = value
	}
	number := func(name string) int {
		value, err := strconv.Atoi(given[name])
		if err != nil {
			log.Fatalf("%s: %v", name, err)
		}
		return value
	}
	env, err := stream.NewEnvironment(stream.NewEnvironmentOptions().
		SetHost(given["host"]).
		SetPort(number("port")).
		SetUser(given["user"]).
		SetPassword(given["password"]).
		SetVHost(given["vhost"]).
		SetReadBuffer(socketBuffer).
		SetWriteBuffer(socketBuffer))
	if err != nil {
		log.Fatal(err)
	}
	p := &peer{
		env:      env,
		streams:  strings.Split(given["streams"], ","),
		isSuper:  given["super"] == "1",
		messages: int64(number("messages")),
		warmUp:   int64(number("warm_up")),
		bodies:   makeBodies(number("size")),
	}
	var answer map[string]any
	switch given["task"] {
	case "publish":
		answer, err = p.publish()
	case "consume":
		answer, err = p.consume()
	default:
		err = fmt.Errorf("no such task: %q", given["task"])
	}
	if err != nil {
		log.Fatal(err)
	}
	if err := json.NewEncoder(os.Stdout).Encode(answer); err != nil {
		log.Fatal(err)
	}
	if err := env.Close(); err != nil {
		log.Fatal(err)
	}
}

func (p *peer) start() {
	p.cpu = processorTime()
	p.started = time.Now()
}

func (p *peer) answer(bytes int64) map[string]any {
	return map[string]any{
		"messages": p.messages,
		"bytes":    bytes,
		"seconds":  time.Since(p.started).Seconds(),
		"cpu":      processorTime() - p.cpu,
	}
}

// publish sends in turn to all streams, a batch to each, until all is confirmed.
func (p *peer) publish() (map[string]any, error) {
	var confirmed, failed atomic.Int64
	done := make(chan struct{}, 1)
	var goal atomic.Int64
	count := func(statuses []*stream.ConfirmationStatus) {
		for _, status := range statuses {
			if !status.IsConfirmed() {
				failed.Add(1)
			}
			if confirmed.Add(1) == goal.Load() {
				done <- struct{}{}
			}
		}
	}
	send, closeAll, err := p.senders(count)
	if err != nil {
		return nil, err
	}
	run := func(total int64) error {
		if total == 0 {
			return nil
		}
		goal.Add(total)
		for sent := int64(0); sent < total; {
			size := min(batch, total-sent)
			messages := make([]message.StreamMessage, size)
			for at := range messages {
				messages[at] = amqp.NewMessage(p.bodies[(sent+int64(at))%int64(len(p.bodies))])
			}
			if err := send(int(sent/batch)%len(p.streams), messages); err != nil {
				return err
			}
			sent += size
		}
		select {
		case <-done:
		case <-time.After(patience):
			return errors.New("not all was confirmed within 5 minutes")
		}
		if failed.Load() > 0 {
			return fmt.Errorf("%d messages were not confirmed", failed.Load())
		}
		return nil
	}
	if err := run(p.warmUp); err != nil {
		return nil, err
	}
	p.start()
	if err := run(p.messages); err != nil {
		return nil, err
	}
	answer := p.answer(0)
	return answer, closeAll()
}

// senders returns what sends a batch to a stream, and what closes all producers.
func (p *peer) senders(count func([]*stream.ConfirmationStatus)) (
	func(int, []message.StreamMessage) error, func() error, error,
) {
	if p.isSuper {
		key := func(m message.StreamMessage) string {
			body := m.GetData()[0]
			return string(body[:min(8, len(body))])
		}
		producer, err := p.env.NewSuperStreamProducer(
			p.streams[0], stream.NewSuperStreamProducerOptions(stream.NewHashRoutingStrategy(key)))
		if err != nil {
			return nil, nil, err
		}
		confirms := producer.NotifyPublishConfirmation(1)
		go func() {
			for confirm := range confirms {
				count(confirm.ConfirmationStatus)
			}
		}()
		send := func(_ int, messages []message.StreamMessage) error {
			for _, each := range messages {
				if err := producer.Send(each); err != nil {
					return err
				}
			}
			return nil
		}
		return send, producer.Close, nil
	}
	producers := make([]*stream.Producer, len(p.streams))
	for at, name := range p.streams {
		options := stream.NewProducerOptions().SetBatchSize(batch).SetConfirmationTimeOut(patience)
		producer, err := p.env.NewProducer(name, options)
		if err != nil {
			return nil, nil, err
		}
		confirms := producer.NotifyPublishConfirmation()
		go func() {
			for statuses := range confirms {
				count(statuses)
			}
		}()
		producers[at] = producer
	}
	send := func(at int, messages []message.StreamMessage) error {
		for _, each := range messages {
			if err := producers[at].Send(each); err != nil {
				return err
			}
		}
		return nil
	}
	closeAll := func() error {
		var all error
		for _, producer := range producers {
			all = errors.Join(all, producer.Close())
		}
		return all
	}
	return send, closeAll, nil
}

// consume reads all streams from their first message; before that as many messages as are asked for, to warm up.
func (p *peer) consume() (map[string]any, error) {
	if p.warmUp > 0 {
		if _, err := p.read(p.warmUp); err != nil {
			return nil, err
		}
	}
	p.start()
	bytes, err := p.read(p.messages)
	return p.answer(bytes), err
}

func (p *peer) read(total int64) (int64, error) {
	var seen, bytes atomic.Int64
	done := make(chan struct{})
	handle := func(_ stream.ConsumerContext, m *amqp.Message) {
		number := seen.Add(1)
		if number <= total { // the rest of the last chunk comes too
			bytes.Add(int64(len(m.GetData())))
		}
		if number == total {
			close(done)
		}
	}
	first := stream.OffsetSpecification{}.First()
	var closers []func() error
	for _, name := range p.streams {
		if p.isSuper {
			consumer, err := p.env.NewSuperStreamConsumer(
				name, handle, stream.NewSuperStreamConsumerOptions().SetOffset(first))
			if err != nil {
				return 0, err
			}
			closers = append(closers, consumer.Close)
			continue
		}
		options := stream.NewConsumerOptions().SetOffset(first).SetInitialCredits(credits).SetCRCCheck(false)
		consumer, err := p.env.NewConsumer(name, handle, options)
		if err != nil {
			return 0, err
		}
		closers = append(closers, consumer.Close)
	}
	select {
	case <-done:
	case <-time.After(patience):
		return 0, fmt.Errorf("%d of %d messages came within 5 minutes", seen.Load(), total)
	}
	result := bytes.Load()
	var all error
	for _, each := range closers {
		all = errors.Join(all, each())
	}
	return result, all
}

func makeBodies(size int) [][]byte {
	bodies := make([][]byte, max(1, min(batch, 1_000_000/size)))
	filler := strings.Repeat("x", size)
	for number := range bodies {
		bodies[number] = []byte((fmt.Sprintf("%08d ", number) + filler)[:size])
	}
	return bodies
}

// processorTime is what this process has used, in seconds, with the system's for it.
func processorTime() float64 {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		log.Fatal(err)
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano()).Seconds()
}
