"""An arm as Gazebo wants it: a URDF becomes an SDF model.

Links that cannot move against each other become one, as in Pinocchio, whose masses, inertias and frames
these are: one body per moving joint, which is all ODE has to solve for. The root link and what is fixed to
it are a static model beside the arm, and the first joint hangs on the world.

    <model name="robot1_base"> static: what is to be seen of the root link
    <model name="robot1">      joint_1: world → link_1, joint_2: link_1 → link_2, …

Joints of the URDF that the config does not name are held at zero.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

import numpy as np
import pinocchio as pin

from fleet.robot_config import RobotConfig
from robot_nodes.gazebo import sdf
from robot_nodes.kinematics import Kinematics
from robot_nodes.urdf_source import Urdf

logger = logging.getLogger(__name__)

_GREY = (0.7, 0.7, 0.7, 1.0)
_TIP = (0.1, 0.1, 0.1, 1.0)
_NO_LIMIT = 1e16
_MU = 1e3  # of two shapes that touch the smaller coefficient counts: the scene's


def arm_models(
    config: RobotConfig, urdf: Urdf, name: str, base: pin.SE3, bits: int, tip_radius_m: float | None
) -> list[Element]:
    """The arm and, where it has something to be seen, its base.

    Args:
        config: Names the joints and the tool.
        urdf: Its URDF.
        name: Of the model.
        base: Where the root link is in the world.
        bits: Which shapes its links touch (`sdf.add_collision`); 0: they have no shape and touch nothing.
        tip_radius_m: Of a ball at the tool; none: there is none.

    Raises:
        ValueError: The URDF cannot be used; the text says why.
    """
    model = _reduced(config, urdf)
    root = ElementTree.fromstring(urdf.text)
    joints = {joint.get("name", ""): joint for joint in root.findall("joint")}
    links = _link_names(model, joints, urdf.name)
    arm, foot = (Element("model", name=text) for text in (name, f"{name}_base"))
    add_fixed(foot, base)
    sdf.add_pose(arm, base)
    bodies = [sdf.add(foot, "link", name=links[0])]
    for i in range(1, model.njoints):
        bodies.append(_add_body(arm, model, i, links, urdf.name))
        _add_joint(arm, model, i, links, joints[model.names[i]])
    colours = _colours(root)
    for link in root.findall("link"):
        frame = model.frames[model.getFrameId(link.get("name", ""), pin.FrameType.BODY)]
        _add_shapes(bodies[frame.parentJoint], link, frame, colours, bits if frame.parentJoint else 0)
    if tip_radius_m is not None:
        frame = model.frames[model.getFrameId(config.tool_link, pin.FrameType.BODY)]
        body, ball = bodies[frame.parentJoint], sdf.sphere(tip_radius_m)
        sdf.add_visual(body, "fingertip_visual", frame.placement, ball, _TIP)
        if bits:
            sdf.add_collision(body, "fingertip", frame.placement, ball, bits, _MU)
    return [foot, arm] if foot.find("link/visual") is not None else [arm]


def add_fixed(model: Element, where: pin.SE3) -> None:
    """Make it a model that stands still there."""
    sdf.add(model, "static", "true")
    sdf.add_pose(model, where)


def _reduced(config: RobotConfig, urdf: Urdf) -> pin.Model:
    """Pinocchio's model with no joints but those of the config."""
    model = Kinematics(urdf, config.joints, config.tool_link).model
    others = [i for i in range(1, model.njoints) if model.names[i] not in config.joints]
    if others:
        logger.info("%s: held at zero: %s", urdf.name, ", ".join(model.names[i] for i in others))
    return pin.buildReducedModel(model, others, pin.neutral(model))


def _link_names(model: pin.Model, joints: dict[str, Element], urdf_name: str) -> list[str]:
    """A name for the body behind each joint of the model; first that of the root link."""
    names = [next(f.name for f in model.frames if f.type == pin.FrameType.BODY)]
    for joint in list(model.names)[1:]:
        if not re.fullmatch(r"[^\s:]+", joint) or joint.startswith("__"):
            raise ValueError(
                f"{urdf_name}: Gazebo needs joint names without blanks, ':' and leading '__', got {joint!r}"
            )
        child = joints[joint].find("child")
        assert child is not None, "Pinocchio has read it"
        link = child.get("link", "")
        # In SDF, joints and links share their names' space; some are reserved.
        clash = link in model.names or link == "world" or link.startswith("__")
        names.append(f"{joint}_link" if clash else link)
    return names


def check_inertia(model: pin.Model, i: int, link: str, urdf_name: str) -> None:
    """Make sure that what joint `i` moves, of which `link` is the first, has mass and inertia.

    Raises:
        ValueError: It has not.
    """
    inertia = model.inertias[i]
    principal = np.linalg.eigvalsh(inertia.inertia)
    if inertia.mass <= 0 or principal[0] <= 0:
        raise ValueError(
            f"{urdf_name}: what joint {model.names[i]!r} moves has mass {inertia.mass:g} kg and principal "
            f"inertias {principal} kg m²; Gazebo needs them above zero: give link {link!r} an <inertial>"
        )


def _add_body(arm: Element, model: pin.Model, i: int, links: list[str], urdf_name: str) -> Element:
    check_inertia(model, i, links[i], urdf_name)
    inertia = model.inertias[i]
    body = sdf.add(arm, "link", name=links[i])
    sdf.add(body, "pose", relative_to=model.names[i])
    sdf.add_inertial(body, inertia.mass, inertia.lever, inertia.inertia)
    sdf.add(body, "self_collide", "false")
    return body


def _add_joint(arm: Element, model: pin.Model, i: int, links: list[str], urdf: Element) -> None:
    parent = model.parents[i]
    kind = urdf.get("type", "")
    limit = urdf.find("limit")
    given = {} if limit is None else {key: float(value) for key, value in limit.attrib.items()}
    range_ = (given["lower"], given["upper"]) if kind != "continuous" else (-_NO_LIMIT, _NO_LIMIT)
    axis = sdf.add_joint(
        arm,
        model.names[i],
        "prismatic" if kind == "prismatic" else "revolute",
        (links[parent] if parent else "world", links[i]),
        (model.jointPlacements[i], links[parent] if parent else "__model__"),
        _numbers(urdf.find("axis"), "xyz", "1 0 0"),
        range_,
    )
    bounds = axis.find("limit")
    assert bounds is not None
    for key in ("effort", "velocity"):
        if given.get(key, 0.0) > 0:  # 0 is how many files say "unknown"
            sdf.add(bounds, key, given[key])
    dynamics = urdf.find("dynamics")
    sdf.add(sdf.add(axis, "dynamics"), "damping", _numbers(dynamics, "damping", "0")[0])


def _add_shapes(
    body: Element, link: Element, frame: pin.Frame, colours: dict[str, sdf.Rgba], bits: int
) -> None:
    name = link.get("name", "")
    for i, (where, shape, element) in enumerate(_shapes(link, "visual")):
        material = element.find("material")
        rgba = _GREY if material is None else colours.get(material.get("name", ""), _GREY)
        sdf.add_visual(body, f"{name}_visual_{i}", frame.placement * where, shape, rgba)
    if bits:
        for i, (where, shape, _) in enumerate(_shapes(link, "collision")):
            placement = frame.placement * where
            sdf.add_collision(body, f"{name}_collision_{i}", placement, shape, bits, _MU)


def _shapes(link: Element, kind: str) -> Iterator[tuple[pin.SE3, Element, Element]]:
    """Each of a link's primitive shapes: where it is, its SDF geometry and the URDF's element."""
    for element in link.findall(kind):
        origin = element.find("origin")
        where = sdf.placement(_numbers(origin, "xyz", "0 0 0"), _numbers(origin, "rpy", "0 0 0"))
        for shape in element.findall("geometry/*"):
            if shape.tag == "box":
                yield where, sdf.box(_numbers(shape, "size", "")), element
            elif shape.tag == "cylinder":
                size = (_numbers(shape, key, "")[0] for key in ("radius", "length"))
                yield where, sdf.cylinder(*size), element
            elif shape.tag == "sphere":
                yield where, sdf.sphere(_numbers(shape, "radius", "")[0]), element
            else:  # its file needs ROS packages to be found
                logger.warning("link %r: its %s is a %s, left out", link.get("name"), kind, shape.tag)


def _colours(root: Element) -> dict[str, sdf.Rgba]:
    """The URDF's materials by name."""
    found: dict[str, sdf.Rgba] = {}
    for material in root.iter("material"):
        colour = material.find("color")
        if colour is not None:
            found[material.get("name", "")] = _numbers(colour, "rgba", "")
    return found


def _numbers(element: Element | None, key: str, default: str) -> list[float]:
    text = default if element is None else element.get(key, default)
    return [float(number) for number in text.split()]
