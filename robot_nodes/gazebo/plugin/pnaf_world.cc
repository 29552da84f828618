// World plugin of Gazebo 11: robot drivers move joints and read states through a loopback TCP socket.
//
// The protocol and the elements of the world file are in docs/gazebo_protocol.md. Everything but Load()
// runs in the physics thread, between two steps: no locks, and what a driver asks for happens at a step
// that is known. Sockets never block, and what a driver can make this process store is bounded.

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <map>
#include <memory>
#include <set>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

#include <gazebo/common/Console.hh>
#include <gazebo/common/Events.hh>
#include <gazebo/common/Plugin.hh>
#include <gazebo/physics/Joint.hh>
#include <gazebo/physics/Link.hh>
#include <gazebo/physics/Model.hh>
#include <gazebo/physics/PhysicsEngine.hh>
#include <gazebo/physics/World.hh>

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "frames are copied as they lie in memory");

namespace pnaf {

using gazebo::physics::Joint;
using gazebo::physics::JointPtr;
using gazebo::physics::LinkPtr;
using gazebo::physics::ModelPtr;
using ignition::math::Pose3d;
using ignition::math::Vector3d;
using Clock = std::chrono::steady_clock;

constexpr uint16_t kVersion = 1;
constexpr size_t kMaxPayload = 65536, kHeader = 8;
constexpr size_t kMaxClients = 32, kMaxJoints = 64;
constexpr uint32_t kMaxSteps = 100000;
constexpr int kFramesAtOnce = 32;       // of one client between two steps: none starves the others
constexpr int kSendBuffer = 16 * 1024;  // old states must not pile up in the kernel either
constexpr int kWaitMs = 100;            // longest wait in which a signal to end goes unnoticed
constexpr auto kLinger = std::chrono::seconds(1);
constexpr double kClosed = 0.01;          // of a latched door: rad
constexpr double kUnlimitedEffort = 1e4;  // of a joint without a limit: N m
constexpr double kMaxCommand = 1e6, kMaxSpeed = 1e3;  // beyond, the solver's numbers overflow
constexpr double kMaxMotorSpeed = 100;  // rad/s: from 110 on, motors of the iterative solver run backwards

enum Kind : uint16_t {
  kBind = 1, kCommand, kReset, kFree, kHold, kStep, kError = 100, kBound, kState, kStream
};
enum class Interface { kPassive, kVelocity, kEffort };

template <typename T>
void Append(std::string &out, T value) {
  out.append(reinterpret_cast<const char *>(&value), sizeof value);
}

template <typename T>
T Read(const std::string &in, size_t offset) {
  T value;
  std::memcpy(&value, in.data() + offset, sizeof value);
  return value;
}

std::string Frame(Kind kind, const std::string &payload) {
  std::string frame;
  Append<uint32_t>(frame, payload.size());
  Append<uint16_t>(frame, kind);
  Append<uint16_t>(frame, kVersion);
  return frame + payload;
}

// One joint that can be driven, and how it is driven now.
struct Axis {
  JointPtr joint;
  ModelPtr model;
  std::string name;
  double max_effort;  // of the motor
  double friction;    // which Gazebo implements as a weak motor that holds still
  double lower, upper;
  Interface drive = Interface::kPassive;
  double torque = 0;  // with Interface::kEffort
  bool driven = false;  // by a client that is connected

  void Motor(double velocity) {
    drive = Interface::kVelocity;
    joint->SetParam("fmax", 0, max_effort);
    joint->SetParam("vel", 0, std::max(-kMaxMotorSpeed, std::min(velocity, kMaxMotorSpeed)));
  }

  void Torque(double value) {
    if (drive != Interface::kEffort) {
      drive = Interface::kEffort;
      joint->SetParam("fmax", 0, friction);
      joint->SetParam("vel", 0, 0.0);
    }
    torque = std::max(-max_effort, std::min(value, max_effort));
  }

  // Of the motor, or as commanded (N m).
  double Effort() const {
    if (drive == Interface::kEffort) return joint->GetForce(0);
    if (drive == Interface::kPassive) return 0;
    const Vector3d axis =
        joint->GetChild()->WorldPose().Rot().RotateVectorReverse(joint->GlobalAxis(0));
    const auto wrench = joint->GetForceTorque(0);
    const bool turns = joint->HasType(Joint::HINGE_JOINT);
    return -axis.Dot(turns ? wrench.body2Torque : wrench.body2Force);  // on the child, by the joint
  }
};

struct Goal {
  double position, velocity;
};

struct Latch {
  Axis *hinge, *handle;
  double angle;
};

struct Client {
  explicit Client(int socket) : fd(socket) {}
  ~Client() { close(fd); }
  Client(const Client &) = delete;
  Client &operator=(const Client &) = delete;

  int fd;
  std::string in;               // at most one frame of the largest size
  std::string partial, newest;  // to be sent: the rest of a frame, and the newest one after it
  std::vector<Axis *> axes;
  std::vector<Interface> interfaces;
  bool bound = false, gone = false;
  bool held = false;
  uint32_t granted = 0;           // steps
  uint32_t every = 0, since = 0;  // steps between two streamed states; 0: no stream
  bool refused = false;           // told why, and now waiting for its end, until:
  Clock::time_point linger_until;

  bool HasFrame() const {
    // A size out of bounds counts: it is answered, not waited for.
    if (in.size() < kHeader) return false;
    const auto size = Read<uint32_t>(in, 0);
    return size > kMaxPayload || in.size() >= kHeader + size;
  }

  void Send(Kind kind, const std::string &payload) {
    newest = Frame(kind, payload);  // replaces one that the client was too slow for
    Flush();
  }

  void Flush() {
    while (!gone) {
      if (partial.empty()) partial.swap(newest);
      if (partial.empty()) return;
      const ssize_t sent = send(fd, partial.data(), partial.size(), MSG_NOSIGNAL);
      if (sent < 0) {
        gone = errno != EAGAIN && errno != EINTR;
        return;
      }
      partial.erase(0, sent);
    }
  }

  void Receive() {
    char buffer[16384];
    const size_t room = std::min(sizeof buffer, kHeader + kMaxPayload - in.size());
    if (room == 0) return;
    const ssize_t got = recv(fd, buffer, room, 0);
    if (got > 0) {
      if (!refused) in.append(buffer, got);
    } else if (got == 0 || (errno != EAGAIN && errno != EINTR)) {
      gone = true;
    }
  }
};

class World : public gazebo::WorldPlugin {
 public:
  ~World() override {
    if (listener_ >= 0) close(listener_);
  }

  void Load(gazebo::physics::WorldPtr world, sdf::ElementPtr sdf) override {
    const char *state = std::getenv("PNAF_GAZEBO_STATE");
    if (state == nullptr) {
      gzwarn << "pnaf_world: PNAF_GAZEBO_STATE is not set: no driver can find this world, it runs alone\n";
      return;
    }
    world_ = world;
    sdf_ = sdf;
    state_path_ = state;
    using gazebo::event::Events;
    begin_ = Events::ConnectWorldUpdateBegin([this](const auto &) { Begin(); });
    end_ = Events::ConnectWorldUpdateEnd([this] { End(); });
    // Comes in a signal handler: nothing but a flag may be touched.
    interrupt_ = Events::ConnectSigInt([this] { stopping_ = true; });
  }

 private:
  // A world that cannot be served must not look alive. 2: a restart does not help.
  [[noreturn]] static void Fail(const std::string &text) {
    gzerr << "pnaf_world: " << text << std::endl;
    _exit(2);
  }

  // ---- between two steps ----------------------------------------------------------------------

  void Begin() {
    if (!started_) Start();
    if (Stopping()) return;
    Serve(0);
    while (Waiting()) {
      Serve(kWaitMs);
      if (Stopping()) return;
    }
    for (auto &latch : latches_) Apply(latch);
    for (auto &item : axes_) {
      Axis &axis = item.second;  // Gazebo forgets forces after each step
      if (axis.drive == Interface::kEffort) axis.joint->SetForce(0, axis.torque);
    }
  }

  void End() {
    const auto time = world_->SimTime();
    time_ns_ = uint64_t(time.sec) * 1000000000u + uint64_t(time.nsec);
    iterations_ = world_->Iterations();
    for (auto &client : clients_) {
      if (client->held && client->granted > 0 && --client->granted == 0) SendState(*client, kState);
      if (client->every > 0 && ++client->since >= client->every) {
        client->since = 0;
        SendState(*client, kStream);
      }
    }
  }

  bool Waiting() const {
    for (auto &client : clients_)
      if (client->held && client->granted == 0) return true;
    return false;
  }

  // Drivers shall not wait for a world that ends.
  bool Stopping() {
    if (!stopping_ && world_->Running()) return false;
    clients_.clear();
    if (listener_ >= 0) close(listener_);
    listener_ = -1;
    return true;
  }

  // The closed door is locked while its handle is up.
  static void Apply(const Latch &latch) {
    const JointPtr &hinge = latch.hinge->joint;
    const bool locked = hinge->Position(0) < kClosed && latch.handle->joint->Position(0) < latch.angle;
    const double upper = locked ? 0.0 : latch.hinge->upper;
    if (hinge->UpperLimit(0) != upper) hinge->SetUpperLimit(0, upper);
  }

  // ---- start ----------------------------------------------------------------------------------

  // At the first step, when all of the world is loaded.
  void Start() {
    started_ = true;
    if (world_->Physics()->GetType() != "ode") Fail("the world's physics must be ode, for its joint motors");
    // The iterative solver would start from the forces of the last step: after a reset, those of another
    // past. It is as accurate without.
    world_->Physics()->SetParam("warm_start_factor", 0.0);
    max_effort_scale_ = sdf_->Get<double>("max_effort_scale", 1.0).first;
    for (auto &model : world_->Models())
      for (auto &link : model->GetLinks()) home_[link.get()] = link->WorldPose();
    try {
      Brake();
      for (auto e = First("latch"); e; e = e->GetNextElement("latch"))
        latches_.push_back({&Find(e->Get<std::string>("hinge")), &Find(e->Get<std::string>("handle")),
                            e->Get<double>("angle")});
    } catch (const std::runtime_error &error) {
      Fail(std::string("world file: ") + error.what());
    }
    WriteState(Listen());
    if (const char *ready = std::getenv("PNAF_READY_FD")) {
      const int fd = std::atoi(ready);
      if (write(fd, "1", 1) == 1) close(fd);
    }
  }

  sdf::ElementPtr First(const char *name) {
    return sdf_->HasElement(name) ? sdf_->GetElement(name) : nullptr;
  }

  // Robots hold still where the world file wants them, until a driver comes.
  void Brake() {
    std::map<Axis *, Goal> goals;
    for (auto e = First("brake"); e; e = e->GetNextElement("brake")) {
      Axis &axis = Find(e->Get<std::string>("joint"));
      axis.Motor(0);
      goals[&axis] = {e->Get<double>("position"), 0};
    }
    Place(goals);
  }

  int Listen() {
    listener_ = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof address;
    auto *any = reinterpret_cast<sockaddr *>(&address);
    if (listener_ < 0 || bind(listener_, any, size) < 0 || listen(listener_, kMaxClients) < 0 ||
        getsockname(listener_, any, &size) < 0)
      Fail(std::string("cannot listen on 127.0.0.1: ") + std::strerror(errno));
    return ntohs(address.sin_port);
  }

  void WriteState(int port) {
    const auto quoted = [](const std::string &text) {
      std::string out = "\"";
      for (const char c : text) {
        if (c == '"' || c == '\\') out += '\\';
        out += c;
      }
      return out + '"';
    };
    const char *master = std::getenv("GAZEBO_MASTER_URI");
    const std::string draft = state_path_ + ".tmp";
    std::ofstream file(draft);
    file << "{\"port\": " << port << ", \"pid\": " << getpid() << ", \"master_uri\": "
         << quoted(master ? master : "") << ", \"world\": " << quoted(world_->Name()) << "}\n";
    file.close();
    if (!file || rename(draft.c_str(), state_path_.c_str()) < 0)
      Fail(state_path_ + ": cannot be written: " + std::strerror(errno));
  }

  // ---- sockets --------------------------------------------------------------------------------

  void Serve(int wait_ms) {
    polled_.clear();
    polled_.push_back({listener_, POLLIN, 0});
    for (auto &client : clients_) {
      const bool sends = !client->partial.empty();
      polled_.push_back({client->fd, short(POLLIN | (sends ? POLLOUT : 0)), 0});
      if (client->HasFrame()) wait_ms = 0;
    }
    if (poll(polled_.data(), polled_.size(), wait_ms) > 0) {
      for (size_t i = 0; i < clients_.size(); ++i) {
        const short events = polled_[i + 1].revents;
        if (events & POLLOUT) clients_[i]->Flush();
        if (events & (POLLIN | POLLERR | POLLHUP)) clients_[i]->Receive();
      }
    }
    for (auto &client : clients_) {
      for (int i = 0; i < kFramesAtOnce && !client->gone && !client->refused && client->HasFrame(); ++i)
        Take(*client);
      if (client->refused && Clock::now() > client->linger_until) client->gone = true;
      if (client->gone) Release(*client);
    }
    clients_.erase(std::remove_if(clients_.begin(), clients_.end(), [](auto &c) { return c->gone; }),
                   clients_.end());
    if (polled_[0].revents) Accept();  // now: one who has just gone and come back finds all released
  }

  void Accept() {
    const int fd = accept4(listener_, nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd < 0) return;
    const int on = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &kSendBuffer, sizeof kSendBuffer);
    auto client = std::make_unique<Client>(fd);
    if (clients_.size() < kMaxClients) {
      clients_.push_back(std::move(client));
    } else {
      client->Send(kError, "this world has " + std::to_string(kMaxClients) + " clients already");
    }
  }

  // One frame that has arrived; whatever is wrong with it ends its client, and nothing else.
  void Take(Client &client) {
    try {
      const auto size = Read<uint32_t>(client.in, 0);
      const auto kind = Read<uint16_t>(client.in, 4), version = Read<uint16_t>(client.in, 6);
      if (version != kVersion)
        throw std::runtime_error("protocol version " + std::to_string(version) + ", this plugin speaks 1");
      if (size > kMaxPayload)
        throw std::runtime_error("payload of " + std::to_string(size) + " bytes, at most 65536 are taken");
      const std::string payload = client.in.substr(kHeader, size);
      client.in.erase(0, kHeader + size);
      Obey(client, kind, payload);
    } catch (const std::runtime_error &error) {
      gzwarn << "pnaf_world: a client is refused: " << error.what() << std::endl;
      client.Send(kError, error.what());
      client.in.clear();
      // Closed at once, with input unread, the kernel would drop the text on its way.
      client.refused = true;
      client.linger_until = Clock::now() + kLinger;
      Release(client);
      client.Flush();
      shutdown(client.fd, SHUT_WR);
    }
  }

  // As when a real arm's controller loses its host: the brakes close.
  void Release(Client &client) {
    for (size_t i = 0; i < client.axes.size(); ++i) {
      if (client.interfaces[i] == Interface::kPassive) continue;
      client.axes[i]->Motor(0);
      client.axes[i]->driven = false;
    }
    client.axes.clear();
    client.held = false;
    client.every = 0;
  }

  // ---- requests -------------------------------------------------------------------------------

  void Obey(Client &client, uint16_t kind, const std::string &payload) {
    const size_t n = client.axes.size();
    const auto expect = [&](size_t size) {
      if (payload.size() != size)
        throw std::runtime_error("a frame of kind " + std::to_string(kind) + " with " +
                                 std::to_string(payload.size()) + " bytes, not " + std::to_string(size));
    };
    if (client.bound != (kind != kBind))
      throw std::runtime_error(client.bound ? "BIND can be sent only once" : "the first frame must be BIND");
    if (client.granted > 0 && kind != kCommand)
      throw std::runtime_error("only COMMAND may be sent before the STATE that answers STEP");
    switch (kind) {
      case kBind:
        return Bind(client, payload);
      case kCommand:
        expect(8 * n);
        return Command(client, payload);
      case kReset:
        expect(4 + 16 * n);
        Reset(client, payload);
        return SendState(client, kState);
      case kFree:
        expect(4);
        client.every = Read<uint32_t>(payload, 0);
        if (client.every < 1) throw std::runtime_error("FREE needs at least 1 step between states");
        client.since = 0;
        client.held = false;
        return SendState(client, kState);
      case kHold:
        expect(0);
        client.held = true;
        client.every = 0;
        return SendState(client, kState);
      case kStep:
        expect(4);
        if (!client.held) throw std::runtime_error("STEP needs HOLD first");
        client.granted = Read<uint32_t>(payload, 0);
        if (client.granted < 1 || client.granted > kMaxSteps)
          throw std::runtime_error("STEP of " + std::to_string(client.granted) + " steps, not 1 to 100000");
        return;
      default:
        throw std::runtime_error("unknown kind of frame: " + std::to_string(kind));
    }
  }

  void Bind(Client &client, const std::string &payload) {
    std::istringstream lines(payload);
    std::vector<Axis *> axes;
    std::vector<Interface> interfaces;
    for (std::string line; std::getline(lines, line);) {
      const auto space = line.rfind(' ');
      const std::string interface = space == std::string::npos ? "" : line.substr(space + 1);
      if (interface != "velocity" && interface != "effort" && interface != "passive")
        throw std::runtime_error("'" + line.substr(0, 200) +
                                 "' is not '<model>::<joint> <velocity|effort|passive>'");
      Axis &axis = Find(line.substr(0, space));
      const bool drives = interface != "passive";
      if (std::find(axes.begin(), axes.end(), &axis) != axes.end())
        throw std::runtime_error("joint '" + axis.name + "' is named twice");
      if (drives && axis.driven)
        throw std::runtime_error("joint '" + axis.name + "' is driven by another client");
      axes.push_back(&axis);
      interfaces.push_back(!drives                   ? Interface::kPassive
                           : interface == "velocity" ? Interface::kVelocity
                                                     : Interface::kEffort);
      if (axes.size() > kMaxJoints) throw std::runtime_error("more than 64 joints");
    }
    if (axes.empty()) throw std::runtime_error("BIND names no joint");
    client.axes = axes;
    client.interfaces = interfaces;
    client.bound = true;
    for (size_t i = 0; i < axes.size(); ++i) {
      if (interfaces[i] == Interface::kPassive) continue;
      axes[i]->driven = true;
      axes[i]->joint->SetProvideFeedback(true);
      Drive(*axes[i], interfaces[i], 0);
    }
    std::string reply;
    Append<uint32_t>(reply, axes.size());
    Append<uint32_t>(reply, std::lround(world_->Physics()->GetMaxStepSize() * 1e9));
    client.Send(kBound, reply);
  }

  static void Drive(Axis &axis, Interface interface, double value) {
    if (interface == Interface::kVelocity) axis.Motor(value);
    if (interface == Interface::kEffort) axis.Torque(value);
  }

  void Command(Client &client, const std::string &payload) {
    for (size_t i = 0; i < client.axes.size(); ++i) {
      const auto value = Read<double>(payload, 8 * i);
      if (client.interfaces[i] != Interface::kPassive && !(std::abs(value) <= kMaxCommand))
        throw std::runtime_error("command " + std::to_string(value) + " for joint '" + client.axes[i]->name +
                                 "': a finite value of at most 1e6 is needed");
    }
    for (size_t i = 0; i < client.axes.size(); ++i)
      Drive(*client.axes[i], client.interfaces[i], Read<double>(payload, 8 * i));
  }

  void Reset(Client &client, const std::string &payload) {
    const size_t n = client.axes.size();
    std::map<Axis *, Goal> goals;
    for (size_t i = 0; i < n; ++i) {
      Axis &axis = *client.axes[i];
      const Goal goal{Read<double>(payload, 4 + 8 * i), Read<double>(payload, 4 + 8 * (n + i))};
      if (std::isnan(goal.position)) continue;
      if (!(goal.position >= axis.lower - 1e-6 && goal.position <= axis.upper + 1e-6) ||
          !(std::abs(goal.position) <= kMaxSpeed) || !(std::abs(goal.velocity) <= kMaxSpeed))
        throw std::runtime_error("RESET of joint '" + axis.name + "' to position " +
                                 std::to_string(goal.position) + " and velocity " +
                                 std::to_string(goal.velocity) + ": its limits are " +
                                 std::to_string(axis.lower) + " and " + std::to_string(axis.upper));
      goals[&axis] = goal;
    }
    for (size_t i = 0; i < n; ++i)
      if (goals.count(client.axes[i])) Drive(*client.axes[i], client.interfaces[i], 0);
    Place(goals);
    if (const auto seed = Read<uint32_t>(payload, 0)) world_->Physics()->SetSeed(seed);
  }

  void SendState(Client &client, Kind kind) {
    std::string state;
    Append(state, time_ns_);
    Append(state, iterations_);
    for (auto *axis : client.axes) Append(state, axis->joint->Position(0));
    for (auto *axis : client.axes) Append(state, axis->joint->GetVelocity(0));
    for (auto *axis : client.axes) Append(state, axis->Effort());
    client.Send(kind, state);
  }

  // ---- joints ---------------------------------------------------------------------------------

  Axis &Find(const std::string &name) {
    const auto known = axes_.find(name);
    if (known != axes_.end()) return known->second;
    const auto colons = name.rfind("::");
    ModelPtr model;
    if (colons != std::string::npos) model = world_->ModelByName(name.substr(0, colons));
    const JointPtr joint = model ? model->GetJoint(name.substr(colons + 2)) : nullptr;
    if (!joint) throw std::runtime_error("no joint '" + name.substr(0, 200) + "' in this world");
    if (joint->DOF() != 1) throw std::runtime_error("joint '" + name + "' has not one axis");
    const double limit = joint->GetEffortLimit(0);
    Axis axis{};
    axis.joint = joint;
    axis.model = model;
    axis.name = name;
    axis.max_effort = limit > 0 && limit < kUnlimitedEffort ? limit * max_effort_scale_ : kUnlimitedEffort;
    axis.friction = joint->GetParam("fmax", 0);
    axis.lower = joint->LowerLimit(0);
    axis.upper = joint->UpperLimit(0);
    return axes_.emplace(name, axis).first->second;
  }

  // Puts joints where they shall be. Links of other models, and joints that are not named, stay.
  void Place(const std::map<Axis *, Goal> &goals) {
    std::set<ModelPtr> models;
    for (auto &item : goals) models.insert(item.first->model);
    for (auto &latch : latches_)  // for SetPosition keeps within the limits, and the next step locks it again
      if (models.count(latch.hinge->model)) latch.hinge->joint->SetUpperLimit(0, latch.hinge->upper);
    for (auto &model : models) {
      std::map<JointPtr, Goal> wanted;
      for (auto &joint : model->GetJoints())
        if (joint->DOF() == 1) wanted[joint] = {joint->Position(0), joint->GetVelocity(0)};
      for (auto &item : goals)
        if (item.first->model == model) wanted[item.first->joint] = item.second;
      // A hinge counts its turns, but SetPosition sets that count only from half a turn on. Below, a count
      // that is as far off as 4 rad is noticed to be wrong, and dropped, when the angle is next read.
      for (auto &item : wanted)
        if (item.first->HasType(Joint::HINGE_JOINT))
          item.first->SetPosition(0, std::copysign(4, item.second.position));
      // From the poses of the start: what the solver let drift apart is together again, and the same
      // reset gives the same numbers, bit by bit, whatever was before.
      model->ResetPhysicsStates();
      for (auto &link : model->GetLinks())
        if (home_.count(link.get())) link->SetWorldPose(home_[link.get()]);
      for (auto &item : wanted) item.first->SetPosition(0, item.second.position);
      SetTwists(*model, wanted);
    }
  }

  // Velocities of the links, from those of the joints. Each pass gets at least one link further from
  // the root, in whatever order the joints are.
  static void SetTwists(const gazebo::physics::Model &model, const std::map<JointPtr, Goal> &wanted) {
    const auto joints = model.GetJoints();
    for (size_t pass = 0; pass < joints.size(); ++pass) {
      for (auto &joint : joints) {
        const LinkPtr parent = joint->GetParent(), child = joint->GetChild();
        if (!child) continue;
        const Vector3d center = child->WorldCoGPose().Pos();
        Vector3d at = center, linear, angular;  // at: a point that moves as one of the parent's
        const auto goal = wanted.find(joint);
        const bool hinge = joint->HasType(Joint::HINGE_JOINT);
        if (hinge) at = joint->Anchor(0);
        if (parent) {
          angular = parent->WorldAngularVel();
          linear = parent->WorldCoGLinearVel() + angular.Cross(at - parent->WorldCoGPose().Pos());
        }
        if (goal != wanted.end()) {
          const Vector3d velocity = joint->GlobalAxis(0) * goal->second.velocity;
          (hinge ? angular : linear) += velocity;
        }
        child->SetAngularVel(angular);
        child->SetLinearVel(linear + angular.Cross(center - at));
      }
    }
  }

  gazebo::physics::WorldPtr world_;
  sdf::ElementPtr sdf_;
  std::string state_path_;
  gazebo::event::ConnectionPtr begin_, end_, interrupt_;
  std::atomic<bool> stopping_{false};
  bool started_ = false;
  double max_effort_scale_ = 1;
  int listener_ = -1;
  std::vector<pollfd> polled_;
  std::vector<std::unique_ptr<Client>> clients_;
  std::map<std::string, Axis> axes_;  // their addresses stay
  std::map<gazebo::physics::Link *, Pose3d> home_;
  std::vector<Latch> latches_;
  uint64_t time_ns_ = 0, iterations_ = 0;  // of the last step that was completed
};

GZ_REGISTER_WORLD_PLUGIN(World)

}  // namespace pnaf
