// SPDX-License-Identifier: Apache-2.0
#include "lane/tls.hpp"

#include <fcntl.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509_vfy.h>
#include <sys/time.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <new>
#include <string>

#include "core/tls.hpp"

// rabbitmq-c connects and shakes hands. Through the context that it shows, OpenSSL is told what else is to be checked, says
// why it refuses a certificate, and tells the socket early enough for an interrupt.
namespace penstock::lane {
namespace {

using std::chrono::milliseconds;

constexpr milliseconds longest{5'000};
constexpr char owner[] = "LaneOptions::tls";

/// The handshake under way. OpenSSL's callbacks find it by the context; it is taken off before it ends.
class Attempt {
 public:
  Attempt(SSL_CTX* context, Interrupt& interrupt, std::string name)
      : context_{context}, interrupt_{interrupt}, name_{std::move(name)} {
    SSL_CTX_set_ex_data(context_, index(), this);
  }
  ~Attempt() {
    SSL_CTX_set_ex_data(context_, index(), nullptr);
    if (socket_ < 0) return;
    interrupt_.detach();
    ::close(socket_);
  }
  Attempt(const Attempt&) = delete;
  Attempt& operator=(const Attempt&) = delete;

  [[nodiscard]] const std::string& refused() const noexcept { return refused_; }

  static void on_progress(const SSL* ssl, int where, int /*result*/) {
    Attempt* const self = find(ssl);
    if (self == nullptr || (where & SSL_CB_HANDSHAKE_START) == 0 || self->socket_ >= 0) return;
    if (!self->name_.empty()) {                                              // the name asked for is the name verified
      SSL_set_tlsext_host_name(const_cast<SSL*>(ssl), self->name_.c_str());  // NOLINT(cppcoreguidelines-pro-type-const-cast)
    }
    // A copy, as rabbitmq-c closes its own when the handshake fails, and its number may be another's then.
    self->socket_ = ::fcntl(SSL_get_fd(ssl), F_DUPFD_CLOEXEC, 0);
    if (self->socket_ >= 0) self->interrupt_.attach(self->socket_);
  }
  static int on_certificate(int good, X509_STORE_CTX* store) {
    const auto* ssl = static_cast<const SSL*>(X509_STORE_CTX_get_ex_data(store, SSL_get_ex_data_X509_STORE_CTX_idx()));
    Attempt* const self = find(ssl);
    if (good == 0 && self != nullptr) self->refused_ = X509_verify_cert_error_string(X509_STORE_CTX_get_error(store));
    return good;
  }

 private:
  static int index() {
    static const int made = SSL_CTX_get_ex_new_index(0, nullptr, nullptr, nullptr, nullptr);
    return made;
  }
  static Attempt* find(const SSL* ssl) {
    return ssl == nullptr ? nullptr : static_cast<Attempt*>(SSL_CTX_get_ex_data(SSL_get_SSL_CTX(ssl), index()));
  }

  SSL_CTX* context_;
  Interrupt& interrupt_;
  std::string name_;
  std::string refused_;
  int socket_ = -1;
};

[[noreturn]] void fail(const std::string& what) { throw AmqpError{0, false, tls::explained(what, owner)}; }

void expect(bool done, const std::string& what) {
  if (done) return;
  const std::string said = tls_trouble();
  throw AmqpError{0, false, said.empty() ? what : what + ": " + said};
}

void prepare(amqp_socket_t* socket, SSL_CTX* context, const Address& address) {
  const TlsOptions& options = *address.tls;
  // Ours says why, and takes addresses as well as names.
  amqp_ssl_socket_set_verify_hostname(socket, 0);
  amqp_ssl_socket_set_verify_peer(socket, options.verify ? 1 : 0);
  SSL_CTX_set_verify(context, options.verify ? SSL_VERIFY_PEER : SSL_VERIFY_NONE, &Attempt::on_certificate);
  SSL_CTX_set_info_callback(context, &Attempt::on_progress);
  ERR_clear_error();
  if (options.ca_file.empty()) {
    expect(SSL_CTX_set_default_verify_paths(context) == 1, "the system's authorities cannot be read");
  } else {
    expect(SSL_CTX_load_verify_locations(context, options.ca_file.c_str(), nullptr) == 1,
           std::string{owner} + ".ca_file: '" + options.ca_file + "' holds no certificate");
  }
  if (!options.certificate_file.empty()) {
    expect(amqp_ssl_socket_set_key(socket, options.certificate_file.c_str(), options.key_file.c_str()) == AMQP_STATUS_OK,
           std::string{owner} + ".certificate_file: '" + options.certificate_file + "' and key_file '" + options.key_file +
               "' are no certificate and its key");
  }
  if (!options.verify) return;
  const std::string& name = options.server_name.empty() ? address.host : options.server_name;
  X509_VERIFY_PARAM* const wanted = SSL_CTX_get0_param(context);
  if (X509_VERIFY_PARAM_set1_ip_asc(wanted, name.c_str()) != 1) {
    ERR_clear_error();
    expect(X509_VERIFY_PARAM_set1_host(wanted, name.data(), name.size()) == 1,
           std::string{owner} + ".server_name: '" + name + "' is no name of a server");
  }
}

}  // namespace

int open_tls(amqp_connection_state_t state, const Address& address, SteadyTime deadline, Interrupt& interrupt) {
  amqp_socket_t* const socket = amqp_ssl_socket_new(state);
  if (socket == nullptr) throw std::bad_alloc{};
  auto* const context = static_cast<SSL_CTX*>(amqp_ssl_socket_get_context(socket));
  prepare(socket, context, address);
  const Attempt attempt{context, interrupt, address.tls->server_name};
  const auto left = std::chrono::ceil<milliseconds>(deadline - std::chrono::steady_clock::now());
  const auto wait = std::clamp(left, milliseconds{1}, longest);
  const timeval timeout{static_cast<time_t>(wait.count() / 1000), static_cast<suseconds_t>(wait.count() % 1000 * 1000)};
  if (interrupt.is_cut()) fail("the connection was given up");
  const int status = amqp_socket_open_noblock(socket, address.host.c_str(), address.port, &timeout);
  if (status != AMQP_STATUS_OK && !attempt.refused().empty()) fail("RabbitMQ's certificate is refused: " + attempt.refused());
  expect(status == AMQP_STATUS_OK, std::string{"connecting with TLS failed: "} + amqp_error_string2(status));
  return amqp_socket_get_sockfd(socket);
}

std::string tls_trouble() {
  const char* said = ERR_reason_error_string(ERR_peek_last_error());
  return said == nullptr ? std::string{} : tls::explained(said, owner);
}

}  // namespace penstock::lane
