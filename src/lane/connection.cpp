// SPDX-License-Identifier: Apache-2.0
#include "lane/connection.hpp"

#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <memory>
#include <new>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>

#include "lane/tls.hpp"

namespace penstock::lane {
namespace {

using std::chrono::milliseconds;

milliseconds left(SteadyTime deadline) {
  return std::max(milliseconds{0}, std::chrono::ceil<milliseconds>(deadline - std::chrono::steady_clock::now()));
}

timeval to_timeval(milliseconds time) {
  time = std::max(time, milliseconds{1});  // zero means "never" in some places of rabbitmq-c
  timeval value{};
  value.tv_sec = static_cast<time_t>(time.count() / 1000);
  value.tv_usec = static_cast<suseconds_t>(time.count() % 1000 * 1000);
  return value;
}

std::string words(int error) { return std::generic_category().message(error); }

class Socket {
 public:
  explicit Socket(int fd) : fd_{fd} {}
  ~Socket() {
    if (fd_ >= 0) ::close(fd_);
  }
  Socket(const Socket&) = delete;
  Socket& operator=(const Socket&) = delete;
  [[nodiscard]] int fd() const noexcept { return fd_; }
  int release() noexcept { return std::exchange(fd_, -1); }

 private:
  int fd_;
};

void set_option(int fd, int level, int name, int value) {
  if (::setsockopt(fd, level, name, &value, sizeof value) != 0) {
    throw AmqpError{0, false, "setting a socket option failed: " + words(errno)};
  }
}

/// Connects without blocking, so that a stop does not wait for a host that never answers.
int finish_connect(int fd, SteadyTime deadline, const Interrupt& interrupt) {
  while (true) {
    if (interrupt.is_cut()) return ECANCELED;
    const auto slice = std::min(left(deadline), milliseconds{100});
    pollfd entry{fd, POLLOUT, 0};
    const int ready = ::poll(&entry, 1, static_cast<int>(slice.count()));
    if (ready < 0 && errno != EINTR) return errno;
    if (ready > 0) {
      int error = 0;
      socklen_t size = sizeof error;
      return ::getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size) == 0 ? error : errno;
    }
    if (left(deadline) == milliseconds{0}) return ETIMEDOUT;
  }
}

int open_socket(const Address& address, milliseconds user_timeout, SteadyTime deadline, const Interrupt& interrupt) {
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_ADDRCONFIG | AI_NUMERICSERV;
  addrinfo* found = nullptr;
  const int failed = ::getaddrinfo(address.host.c_str(), std::to_string(address.port).c_str(), &hints, &found);
  if (failed != 0) throw AmqpError{0, false, "the host cannot be resolved: " + std::string{::gai_strerror(failed)}};
  const std::unique_ptr<addrinfo, void (*)(addrinfo*)> owned{found, &::freeaddrinfo};

  int error = ECONNREFUSED;
  for (const addrinfo* at = found; at != nullptr; at = at->ai_next) {
    Socket socket{::socket(at->ai_family, at->ai_socktype | SOCK_NONBLOCK | SOCK_CLOEXEC, at->ai_protocol)};
    if (socket.fd() < 0) {
      error = errno;
      continue;
    }
    set_option(socket.fd(), IPPROTO_TCP, TCP_NODELAY, 1);
    set_option(socket.fd(), SOL_SOCKET, SO_KEEPALIVE, 1);
    // A peer that takes nothing any more, with or without a word, ends a send here instead of holding it for ever.
    set_option(socket.fd(), IPPROTO_TCP, TCP_USER_TIMEOUT, static_cast<int>(user_timeout.count()));
    error = ::connect(socket.fd(), at->ai_addr, at->ai_addrlen) == 0 ? 0 : errno;
    if (error == EINPROGRESS) error = finish_connect(socket.fd(), deadline, interrupt);
    if (error == 0) return socket.release();
    if (error == ECANCELED) break;
  }
  throw AmqpError{0, false, "connecting failed: " + words(error)};
}

[[noreturn]] void raise(const char* what, const amqp_rpc_reply_t& reply) {
  const std::string verb = what;
  if (reply.reply_type == AMQP_RESPONSE_SERVER_EXCEPTION && reply.reply.id == AMQP_CHANNEL_CLOSE_METHOD) {
    const auto* close = static_cast<const amqp_channel_close_t*>(reply.reply.decoded);
    throw AmqpError{close->reply_code, true,
                    verb + ": RabbitMQ says " + std::to_string(close->reply_code) + " " + text(close->reply_text)};
  }
  if (reply.reply_type == AMQP_RESPONSE_SERVER_EXCEPTION && reply.reply.id == AMQP_CONNECTION_CLOSE_METHOD) {
    const auto* close = static_cast<const amqp_connection_close_t*>(reply.reply.decoded);
    throw AmqpError{close->reply_code, false,
                    verb + ": RabbitMQ says " + std::to_string(close->reply_code) + " " + text(close->reply_text)};
  }
  if (reply.reply_type == AMQP_RESPONSE_LIBRARY_EXCEPTION) {
    throw AmqpError{0, false, verb + ": " + amqp_error_string2(reply.library_error)};
  }
  throw AmqpError{0, false, verb + ": an unexpected answer"};
}

}  // namespace

Connection::Connection(const Address& address, std::chrono::seconds heartbeat, const std::string& name, SteadyTime deadline,
                       Interrupt& interrupt)
    : interrupt_{interrupt}, state_{amqp_new_connection()}, beat_{heartbeat} {
  if (state_ == nullptr) throw std::bad_alloc{};
  try {
    const auto user_timeout = heartbeat.count() > 0 ? milliseconds{2 * heartbeat} : milliseconds{30'000};
    int fd = -1;
    if (address.tls) {
      fd = open_tls(state_, address, deadline, interrupt);
      set_option(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, static_cast<int>(user_timeout.count()));
    } else {
      amqp_socket_t* socket = amqp_tcp_socket_new(state_);
      if (socket == nullptr) throw std::bad_alloc{};
      fd = open_socket(address, user_timeout, deadline, interrupt);
      amqp_tcp_socket_set_sockfd(socket, fd);  // owns it from here
    }
    interrupt_.attach(fd);
    login(address, heartbeat, name, deadline);
  } catch (...) {
    interrupt_.detach();
    amqp_destroy_connection(state_);
    throw;
  }
}

Connection::~Connection() {
  interrupt_.detach();
  amqp_destroy_connection(state_);
}

void Connection::login(const Address& address, std::chrono::seconds heartbeat, const std::string& name, SteadyTime deadline) {
  timeval timeout = to_timeval(left(deadline));
  check(amqp_set_handshake_timeout(state_, &timeout), "login");
  check(amqp_set_rpc_timeout(state_, &timeout), "login");

  // Without these RabbitMQ neither says that a consumer is gone nor that it stopped taking messages (rabbitmq-c asks for
  // neither), and confirms are a capability to be declared, too.
  std::array capabilities{entry("consumer_cancel_notify", true), entry("connection.blocked", true),
                          entry("publisher_confirms", true)};
  amqp_table_entry_t wanted{};
  wanted.key = bytes("capabilities");
  wanted.value.kind = AMQP_FIELD_KIND_TABLE;
  wanted.value.value.table = amqp_table_t{static_cast<int>(capabilities.size()), capabilities.data()};
  std::array properties{wanted, entry("connection_name", std::string_view{name})};
  const amqp_table_t table{static_cast<int>(properties.size()), properties.data()};
  const auto beat = static_cast<int>(heartbeat.count());
  const char* const vhost = address.vhost.c_str();
  const amqp_rpc_reply_t reply =
      address.by_certificate
          ? amqp_login_with_properties(state_, vhost, AMQP_DEFAULT_MAX_CHANNELS, AMQP_DEFAULT_FRAME_SIZE, beat, &table,
                                       AMQP_SASL_METHOD_EXTERNAL, "certificate")  // which counts
          : amqp_login_with_properties(state_, vhost, AMQP_DEFAULT_MAX_CHANNELS, AMQP_DEFAULT_FRAME_SIZE, beat, &table,
                                       AMQP_SASL_METHOD_PLAIN, address.user.c_str(), address.password.reveal().c_str());
  if (reply.reply_type == AMQP_RESPONSE_LIBRARY_EXCEPTION && address.tls) {
    // With TLS 1.3 RabbitMQ looks at our certificate only after our side of the handshake is over.
    if (const std::string said = tls_trouble(); !said.empty()) throw AmqpError{0, false, "login: " + said};
  }
  if (reply.reply_type != AMQP_RESPONSE_NORMAL) raise("login", reply);
  beat_ = std::chrono::seconds{amqp_get_heartbeat(state_)};

  limit_calls(milliseconds{10'000});
}

void Connection::open_channel(amqp_channel_t channel) {
  amqp_channel_open(state_, channel);
  check_rpc(channel, "opening a channel");
}

void Connection::accept_channel_close(amqp_channel_t channel) {
  amqp_channel_close_ok_t ok{};
  check(amqp_send_method(state_, channel, AMQP_CHANNEL_CLOSE_OK_METHOD, &ok), "answering channel.close");
}

void Connection::limit_calls(milliseconds timeout) {
  const timeval limit = to_timeval(timeout);
  check(amqp_set_rpc_timeout(state_, &limit), "setting a timeout");
}

void Connection::close(milliseconds timeout) noexcept {
  const timeval limit = to_timeval(timeout);
  if (amqp_set_rpc_timeout(state_, &limit) == AMQP_STATUS_OK) amqp_connection_close(state_, AMQP_REPLY_SUCCESS);
}

bool Connection::next(amqp_frame_t& frame) {
  while (true) {
    const timeval now{};
    const int status = amqp_simple_wait_frame_noblock(state_, &frame, &now);
    if (status == AMQP_STATUS_TIMEOUT) return false;
    check(status, "receiving");
    if (frame.frame_type == AMQP_FRAME_METHOD && frame.payload.method.id == AMQP_CONNECTION_CLOSE_METHOD) {
      const auto* close = static_cast<const amqp_connection_close_t*>(frame.payload.method.decoded);
      const AmqpError error{
          close->reply_code, false,
          "RabbitMQ closed the connection: " + std::to_string(close->reply_code) + " " + text(close->reply_text)};
      amqp_connection_close_ok_t ok{};
      amqp_send_method(state_, 0, AMQP_CONNECTION_CLOSE_OK_METHOD, &ok);
      throw AmqpError{error};
    }
    if (frame.frame_type == AMQP_FRAME_METHOD || frame.frame_type == AMQP_FRAME_HEADER || frame.frame_type == AMQP_FRAME_BODY) {
      return true;
    }
  }
}

bool Connection::writable() const noexcept {
  pollfd entry{amqp_get_sockfd(state_), POLLOUT, 0};
  return ::poll(&entry, 1, 0) > 0;
}

void Connection::wait(bool for_write, SteadyTime until) {
  // What rabbitmq-c holds already is no event on the socket.
  if (amqp_frames_enqueued(state_) != 0 || amqp_data_in_buffer(state_) != 0) return;
  auto limit = std::min(left(until), milliseconds{1'000});
  if (beat_.count() > 0) limit = std::min(limit, beat_ / 4);
  std::array entries{pollfd{amqp_get_sockfd(state_), static_cast<short>(for_write ? POLLIN | POLLOUT : POLLIN), 0},
                     pollfd{interrupt_.fd(), POLLIN, 0}};
  if (::poll(entries.data(), entries.size(), static_cast<int>(limit.count())) > 0 && entries[1].revents != 0) {
    interrupt_.drain();
  }
  if (interrupt_.is_cut()) throw AmqpError{0, false, "the connection was given up"};
}

void Connection::check(int status, const char* what) {
  if (status != AMQP_STATUS_OK) throw AmqpError{0, false, std::string{what} + ": " + amqp_error_string2(status)};
}

void Connection::check_rpc(amqp_channel_t channel, const char* what) {
  const amqp_rpc_reply_t reply = amqp_get_rpc_reply(state_);
  if (reply.reply_type == AMQP_RESPONSE_NORMAL) return;
  if (reply.reply_type == AMQP_RESPONSE_SERVER_EXCEPTION && reply.reply.id == AMQP_CHANNEL_CLOSE_METHOD) {
    accept_channel_close(channel);
  }
  raise(what, reply);
}

}  // namespace penstock::lane
