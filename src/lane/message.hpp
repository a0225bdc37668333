// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "lane/amqp.hpp"
#include "penstock/envelope.hpp"
#include "penstock/event.hpp"

namespace penstock::lane {

/// How often the message was delivered before it came back from a delay; ours alone, and never shown to a handler.
inline constexpr std::string_view deliveries_header = "x-penstock-deliveries";
/// The payload is null. AMQP knows only the empty body.
inline constexpr std::string_view null_header = "x-penstock-null";

/// In which order the headers were before RabbitMQ, which sorts them when it moves a message out of a delay queue.
inline constexpr std::string_view order_header = "x-penstock-order";

/// A queue that holds messages for `delay` and then hands them to `target`.
struct DelayQueue {
  std::string target{};
  std::chrono::milliseconds delay{};
  [[nodiscard]] std::string name() const { return target + ".retry." + std::to_string(delay.count()); }
};

/// Properties as they came in, to be sent on with their types intact.
class RawProperties {
 public:
  /// Reads the bytes of a content header. Throws AmqpError when they are none.
  explicit RawProperties(std::string_view encoded);
  ~RawProperties();
  RawProperties(const RawProperties&) = delete;
  RawProperties& operator=(const RawProperties&) = delete;

  amqp_basic_properties_t* operator->() noexcept { return properties_; }
  amqp_basic_properties_t& operator*() noexcept { return *properties_; }

 private:
  amqp_pool_t pool_{};
  std::string encoded_;  // what the decoded texts point into
  amqp_basic_properties_t* properties_ = nullptr;
};

/// One message on its way to a queue, laid out for rabbitmq-c once. Its text is in one piece of memory, which moves with it, so
/// that all views stay; a parcel that is done lends that memory to the next.
struct Parcel {
  std::string_view routing_key{};
  std::string_view body{};
  amqp_basic_properties_t properties{};
  std::optional<DelayQueue> through{};  ///< declared first, when it was not lately
  std::string refused{};                ///< why it cannot be sent at all; then nothing is laid out

  std::vector<char> text{};                   // what the views point into; no std::string, as a short one would not stay put
  std::vector<amqp_table_entry_t> headers{};  // of the properties
  /// Where a header's name and value are in the text while that still grows.
  struct Place {
    std::size_t name = 0;
    std::size_t name_size = 0;
    std::size_t value = 0;
    std::optional<std::size_t> value_size{};
  };
  std::vector<Place> places{};
  std::unique_ptr<RawProperties> raw{};  ///< what the properties of a message that goes back point into
  std::vector<std::vector<amqp_field_value_t>> raw_arrays{};

  /// What RabbitMQ gives back with a message that it returns; what is empty there is empty here.
  [[nodiscard]] std::string_view returned_id() const noexcept {
    return (properties._flags & AMQP_BASIC_MESSAGE_ID_FLAG) != 0 ? view(properties.message_id) : std::string_view{};
  }

  /// It is sent: from now on only its routing key and id are needed, and of a large one only these are kept.
  void shrink();
  /// The memory it holds, about.
  [[nodiscard]] std::size_t footprint() const noexcept;
};

/// Lays an event out for RabbitMQ: `cloudEvents_` headers, and the properties its own tools show. What AMQP cannot carry comes
/// back `refused`. `room`, a parcel that is done, lends its memory.
Parcel pack(const Event& event, std::string_view routing_key, Parcel&& room = {});

/// An upper bound of the bytes that properties take in the content header's frame.
std::size_t encoded_size(const amqp_basic_properties_t& properties);

/// A received message, taken out of rabbitmq-c's memory.
struct Received {
  Wire wire{};
  std::uint32_t earlier = 0;  ///< deliveries before this one that the message or RabbitMQ counted
  bool counted = false;       ///< RabbitMQ counts deliveries of this queue (a quorum queue)
};

/// `delays_of` is the queue whose delay queues' traces are taken off.
Received unpack(const amqp_basic_properties_t& properties, std::string body, const std::string& delays_of);

/// A received message that goes back to its queue, now or through a delay queue, with the same bytes and one more delivery.
Parcel repack(std::string_view encoded_properties, std::string_view body, const std::string& queue,
              std::optional<DelayQueue> through, std::uint32_t deliveries, const std::string& user);

/// The canonical text of a header's value: CloudEvents' where it has that type, JSON for tables and arrays; null for void.
std::optional<std::string> canonical_text(const amqp_field_value_t& value);

}  // namespace penstock::lane
